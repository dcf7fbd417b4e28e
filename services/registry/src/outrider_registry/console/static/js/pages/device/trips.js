// Trips of one device.
import { bounds, RangeChoice } from "../../ranges.js";
import { Trips as All } from "../../trips.js";
import { html, useMemo, useQuery } from "../../ui.js";

const WEEK_S = 604800;

export function Trips({ device }) {
  const [query, setQuery] = useQuery();
  const last_s = Number(query.last) || WEEK_S;
  // up to tomorrow: a trip under way ends later than now with every look
  const range = useMemo(() => {
    const [from, to] = bounds({ last_s });
    return [from, to + 86400000];
  }, [last_s]);
  const choose = (next) => setQuery({ last: next.last_s === WEEK_S ? undefined : next.last_s, trip: undefined });
  return html`<${All} device=${device.id} range=${range} tools=${html`<${RangeChoice} range=${{ last_s }} onRange=${choose} least_s=${86400} />`} />`;
}
