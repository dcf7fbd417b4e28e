// Trips of all devices, a day at a time.
import { html, Button, Page, useQuery, Field, useMemo } from "../ui.js";
import { Trips } from "../trips.js";

const two = (n) => String(n).padStart(2, "0");
const dayOf = (date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;

export default function AllTrips() {
  const [query, setQuery] = useQuery();
  const today = dayOf(new Date());
  const day = /^\d{4}-\d{2}-\d{2}$/.test(query.day ?? "") ? query.day : today;
  const range = useMemo(() => {
    const from = new Date(`${day}T00:00:00`);
    const to = new Date(from);
    to.setDate(to.getDate() + 1);
    return [from.getTime(), to.getTime()];
  }, [day]);
  const go = (next) => setQuery({ day: next === today ? undefined : next, trip: undefined });
  const step = (days) => {
    const date = new Date(`${day}T12:00:00`);
    date.setDate(date.getDate() + days);
    go(dayOf(date));
  };
  const open = query.state === "driving,paused";
  const tools = html`
    <div class="day" role="group" aria-label="Day">
      <${Button} kind="square back" icon="chevron" label="The day before" onClick=${() => step(-1)} />
      <${Field} label="Day" type="date" class="inline" max=${today} value=${day} onValue=${(next) => next && go(next)} />
      <${Button} kind="square" icon="chevron" label="The day after" disabled=${day >= today} onClick=${() => step(1)} />
      ${day !== today && html`<${Button} onClick=${() => go(today)}>Today<//>`}
    </div>
    <button type="button" class="chip" aria-pressed=${open ? "true" : "false"} onClick=${() => setQuery({ state: open ? undefined : "driving,paused" })}>Open now</button>`;
  return html`
    <${Page} title="Trips" note="Driving, recognised from what devices send; those under way change as you look.">
      <${Trips} range=${range} tools=${tools} />
    <//>`;
}
