// Devices from a file: read in the browser, tried first, sent in parts, with a report of every row.
import { post } from "../api.js";
import { parseCsv, writeCsv } from "../csv.js";
import { can, readOverview } from "../session.js";
import { Button, Card, count, download, Field, html, Icon, navigate, Page, Pill, plural, Problem, Table, toast, useRef, useState } from "../ui.js";

const KNOWN = ["id", "name", "type", "tier", "tags", "serial", "gateway", "owner", "location", "latitude", "longitude", "firmware", "hardware", "status"];
const NUMBERS = ["latitude", "longitude"];
const PART = 500;
const SHOWN = 200;
const RESULTS = { created: "good", updated: "accent", unchanged: "", failed: "bad" };

/** Rows of the file as the API takes them, with what is odd about the file. Throws a sentence if it cannot be used. */
function read(text) {
  const [head, ...body] = parseCsv(text);
  if (!head) throw new Error("The file is empty.");
  const columns = head.map((name) => name.trim().toLowerCase().replaceAll(" ", "_"));
  if (!columns.includes("id")) throw new Error(`The first line must name the columns, one of them id. It has: ${head.join(", ")}.`);
  if (!body.length) throw new Error("The file has a line of names and no device.");
  const rows = body.map((cells) => {
    const row = {};
    columns.forEach((name, i) => {
      const cell = cells[i] ?? "";
      if (!KNOWN.includes(name) || cell === "") return;
      row[name] = NUMBERS.includes(name) && Number.isFinite(Number(cell.replace(",", "."))) ? Number(cell.replace(",", ".")) : cell;
    });
    row.id ??= "";
    return row;
  });
  return { rows, columns: columns.filter((name) => KNOWN.includes(name)), ignored: columns.filter((name) => name && !KNOWN.includes(name)) };
}

export default function Import() {
  const [file, setFile] = useState(null); // {name, rows, columns, ignored}
  const [problem, setProblem] = useState(null);
  const [options, setOptions] = useState({ on_existing: "skip", credentials: false });
  const [run, setRun] = useState(null); // {dry, results, done, error, running}
  const [over, setOver] = useState(false);
  const cancelled = useRef(false);
  const input = useRef();
  const take = async (picked) => {
    setOver(false);
    if (!picked) return;
    setProblem(null);
    setRun(null);
    try {
      setFile({ name: picked.name, ...read(await picked.text()) });
    } catch (error) {
      setFile(null);
      setProblem(error);
    }
  };
  const start = async (dry, results = []) => {
    cancelled.current = false;
    let now = { dry, results, running: true, error: null };
    setRun(now);
    try {
      for (let from = results.length; from < file.rows.length && !cancelled.current; from += PART) {
        const answer = await post("/devices/import", { rows: file.rows.slice(from, from + PART), dry_run: dry, ...options });
        now = { ...now, results: [...now.results, ...answer.results.map((one) => ({ ...one, row: from + one.row }))] };
        setRun(now);
      }
    } catch (error) {
      now = { ...now, error };
    }
    setRun({ ...now, running: false });
    if (!dry) readOverview().catch(() => undefined);
    if (!dry && !now.error && now.results.length === file.rows.length) toast(`${plural(now.results.length, "row")} imported`);
  };
  const report = () => {
    const rows = run.results.map((one) => [one.row + 1, one.id, one.result, one.error, one.secret, one.generation, one.key_id]);
    download(`import-report-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.csv`, writeCsv(["row", "id", "result", "error", "secret", "generation", "key_id"], rows));
  };
  const sums = {};
  for (const one of run?.results ?? []) sums[one.result] = (sums[one.result] ?? 0) + 1;
  const finished = run && !run.running && run.results.length === file?.rows.length;
  return html`
    <${Page} title="Import devices" note="A CSV file with a line for each device. Nothing is changed before you say so, and the same file again changes nothing more."
      actions=${html`<${Button} icon="download" onClick=${() => download("devices.csv", writeCsv(KNOWN.slice(0, 11), [["van-7", "Blue van", "van", "esp32", "berlin cold-chain", "SN-1", "", "", "", "", ""]]))}>Example file<//>`}>
      ${problem && html`<${Problem} error=${problem} />`}
      <label class=${over ? "drop over" : "drop"} onDragOver=${(event) => { event.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)}
        onDrop=${(event) => { event.preventDefault(); take(event.dataTransfer.files[0]); }}>
        <${Icon} name="upload" size=${26} />
        <span>${file ? html`<strong>${file.name}</strong>: ${plural(file.rows.length, "device")}, columns ${file.columns.join(", ")}` : html`<strong>Choose a file</strong> or drop it here`}</span>
        ${file?.ignored.length > 0 && html`<span class="hint">Not used: ${file.ignored.join(", ")}</span>`}
        <input ref=${input} type="file" accept=".csv,.txt,text/csv" class="sr-only" aria-label="CSV file" onChange=${(event) => { take(event.target.files[0]); event.target.value = ""; }} />
      </label>
      ${file && html`
        <${Card} title="How">
          <div class="form">
            <div class="form-row">
              <${Field} label="Devices that are there already" as="select" value=${options.on_existing} onValue=${(on_existing) => setOptions({ ...options, on_existing })}
                options=${[["skip", "Leave as they are"], ["update", "Change to what the file says"], ["fail", "Report as failed"]]} />
            </div>
            ${can("credentials:write") && html`<${Field} as="check" label="Give a secret to every device that has none" hint="The secrets are in the report, this once." value=${options.credentials} onValue=${(credentials) => setOptions({ ...options, credentials })} />`}
            <div class="actions">
              <${Button} icon="play" disabled=${run?.running} onClick=${() => start(true)}>Dry run<//>
              <${Button} kind="primary" icon="upload" disabled=${run?.running} onClick=${() => start(false)}>${`Import ${plural(file.rows.length, "device")}`}<//>
            </div>
          </div>
        <//>`}
      ${run && html`
        <${Card} title=${run.dry ? "Dry run: nothing is changed" : "Import"} actions=${html`
            ${run.running && html`<${Button} onClick=${() => { cancelled.current = true; }}>Stop<//>`}
            ${!run.running && !finished && html`<${Button} kind="primary" onClick=${() => start(run.dry, run.results)}>${`Go on from row ${count(run.results.length + 1)}`}<//>`}
            ${run.results.length > 0 && !run.running && html`<${Button} icon="download" onClick=${report}>Report<//>`}
            ${finished && !run.dry && html`<${Button} kind="primary" onClick=${() => navigate("/devices")}>To the devices<//>`}`}>
          <progress class="progress" max=${file.rows.length} value=${run.results.length} aria-label="Progress"></progress>
          <p class="sums" role="status">${count(run.results.length)} of ${plural(file.rows.length, "row")}
            ${Object.entries(sums).map(([result, n]) => html`<${Pill} kind=${RESULTS[result]}>${count(n)} ${run.dry && result !== "failed" && result !== "unchanged" ? `would be ${result}` : result}<//>`)}</p>
          ${!run.dry && options.credentials && sums.created > 0 && !run.running && html`<p class="once"><${Icon} name="key" />Save the report: the secrets in it are not shown again.</p>`}
          ${run.error && html`<${Problem} error=${run.error} />`}
          ${run.results.length > 0 && html`<${Rows} results=${run.results} />`}
        <//>`}
      <${Adopt} />
    <//>`;
}

/** Devices that sent data before there was a registry, or whose rows were lost: the ledger knows their names. */
function Adopt() {
  const [found, setFound] = useState(null);
  const look = async () => {
    const { adopted } = await post("/devices/adopt", { dry_run: true });
    setFound(adopted.map((one) => one.id));
  };
  const adopt = async () => {
    const credentials = can("credentials:write");
    const { adopted } = await post("/devices/adopt", { credentials });
    if (credentials) download("adopted-devices.csv", writeCsv(["id", "secret", "generation", "key_id"], adopted.map((one) => [one.id, one.secret, one.generation, one.key_id])));
    toast(`${plural(adopted.length, "device")} adopted`);
    setFound(null);
    await readOverview();
  };
  return html`
    <${Card} title="Devices that were there before">
      <p class="note">Devices whose data is stored and that are not registered: adopted, they keep their names and get a secret each, in a file that is saved once.</p>
      ${found && html`<p class="adopt-found" role="status">${found.length === 0 ? "There is none: every device with data is registered." : html`<strong>${plural(found.length, "device")}:</strong> ${found.slice(0, 30).join(", ")}${found.length > 30 ? " …" : ""}`}</p>`}
      <div class="actions card-actions">
        <${Button} icon="search" onClick=${look}>Look for them<//>
        ${found?.length > 0 && html`<${Button} kind="primary" onClick=${adopt}>${`Adopt ${plural(found.length, "device")}`}<//>`}
      </div>
    <//>`;
}

/** What failed first, then the rest; as many as a page can show. */
function Rows({ results }) {
  const order = [...results.filter((one) => one.result === "failed"), ...results.filter((one) => one.result !== "failed")];
  const columns = [
    { key: "row", title: "Row", align: "end", render: (one) => count(one.row + 1) },
    { key: "id", title: "Device", render: (one) => html`<span class="mono">${one.id}</span>` },
    { key: "result", title: "Result", render: (one) => html`<${Pill} kind=${RESULTS[one.result]}>${one.result}<//>` },
    { key: "error", title: "", grow: true, render: (one) => html`<span class="soft">${one.error}</span>` },
  ];
  return html`<${Table} label="Rows" rows=${order.slice(0, SHOWN)} rowKey=${(one) => one.row} columns=${columns} />
    ${results.length > SHOWN && html`<p class="hint rows-more">The first ${SHOWN} of ${count(results.length)}; the report has all.</p>`}`;
}
