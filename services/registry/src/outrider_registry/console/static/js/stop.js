// The emergency stop: always in sight, asks for a reason, and says who stopped what while it stands.
import { del, put, session } from "./api.js";
import { html, useShared, useState } from "./core.js";
import { Icon } from "./icons.js";
import { can, readOverview, stop } from "./session.js";
import { Ago, Button, confirm, Dialog, Field, Form, toast, useForm } from "./ui.js";

/** The button at the top of every page; hidden from those who may not use it. */
export function StopButton() {
  const [open, setOpen] = useState(false);
  const standing = useShared(stop);
  if (!can("stop:write") || (!session.get()?.tenant && !session.get()?.platform)) return null;
  return html`
    <button type="button" class=${standing ? "button stop standing" : "button stop"} aria-label="Emergency stop" title="Emergency stop" onClick=${() => setOpen(true)}>
      <${Icon} name="stop" /><span>Stop</span></button>
    ${open && html`<${StopDialog} onClose=${() => setOpen(false)} />`}`;
}

function StopDialog({ onClose }) {
  const who = session.get();
  const form = useForm({ reason: "", everything: !who.tenant });
  const send = async () => {
    await put("/stop", { reason: form.values.reason.trim(), ...(who.platform && form.values.everything ? { everything: true } : {}) }, null);
    await readOverview();
    toast("Stopped. No command starts until somebody ends it.", "bad");
    onClose();
  };
  return html`
    <${Dialog} title="Emergency stop" onClose=${onClose} firm>
      <p>Holds back every command and update that has not been sent${who.tenant ? html` to devices of <strong>${who.tenant}</strong>` : ""}. What a device has already
        started goes on. Telemetry is not touched.</p>
      <${Form} submit="Stop now" kind="danger" onSubmit=${send} onCancel=${onClose}>
        <${Field} label="Reason" required maxlength="300" autofocus placeholder="What is going wrong?" hint="Everyone sees it in the banner, and it is in the audit." ...${form.bind("reason")} />
        ${who.platform && html`<${Field} as="check" label="All tenants of this platform" disabled=${!who.tenant} ...${form.bind("everything")} />`}
      <//>
    <//>`;
}

/** While a stop stands: why, by whom, since when, and the way to end it. */
export function StopBanner() {
  const standing = useShared(stop);
  if (!standing) return null;
  const everything = standing.everything || standing.tenant === "*";
  const mayEnd = can("stop:write") && (!everything || session.get()?.platform);
  const end = async () => {
    const sure = await confirm({
      title: "End the emergency stop?", action: "End it",
      text: "Commands that wait are sent at once, unless they have expired. Cancel those that should not run first.",
    });
    if (!sure) return;
    await del(everything ? "/stop?everything=true" : "/stop", null);
    await readOverview();
    toast("The stop has ended. Commands are sent again.");
  };
  return html`
    <div class="stop-banner" role="alert">
      <${Icon} name="stop" size=${20} />
      <p><strong>Emergency stop${everything ? " of the whole platform" : ""}:</strong> ${standing.reason}
        <span class="stop-by"> · ${standing.stopped_by?.replace(/^user:/, "")}, <${Ago} time=${standing.stopped_at} /></span></p>
      ${mayEnd && html`<${Button} onClick=${end}>End stop<//>`}
    </div>`;
}
