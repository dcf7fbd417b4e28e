// One's own account: password, second factor, login at the broker.
import { del, post, session } from "../api.js";
import { BrokerLoginDialog } from "../once.js";
import { readSession } from "../session.js";
import { Button, Card, Code, Dialog, Field, Form, html, Icon, Page, Pill, toast, useForm, useShared, useState } from "../ui.js";

export default function Profile() {
  const who = useShared(session);
  const [dialog, setDialog] = useState(null);
  const login = async () => setDialog({ login: await post(`/users/${encodeURIComponent(who.name)}/broker-login`) });
  const setUp = async () => setDialog({ setup: await post("/session/totp", {}, { once: true }) });
  return html`
    <${Page} title="Profile">
      <div class="cards">
        <${Card} title=${who.name}>
          <dl class="facts">
            <dt>Role</dt><dd>${who.platform ? "Administrator of the platform" : who.role}</dd>
            <dt>Tenant</dt><dd>${who.home ?? (who.tenant ? html`looking at ${who.tenant}` : "all of them")}</dd>
            <dt>May</dt><dd><span class="tags">${[...who.scopes].sort().map((scope) => html`<span class="tag mono">${scope}</span>`)}</span></dd>
          </dl>
        <//>
        <${Card} title="Second factor" actions=${who.totp && html`<${Pill} kind="good">on<//>`}>
          <p class="note">${who.totp ? "Signing in also asks for a code of your authenticator app." : "A code of an authenticator app on top of the password: a stolen password alone then opens nothing."}</p>
          <div class="actions card-actions">${who.totp ? html`<${Button} kind="danger" onClick=${() => setDialog({ end: true })}>Turn off<//>` : html`<${Button} kind="primary" onClick=${setUp}>Set up<//>`}</div>
        <//>
        <${Password} />
        <${Card} title="Login at the broker">
          <p class="note">Read-only, with Mosquitto's own tools: all topics of the tenant but those that carry secrets. Making it again changes its password.</p>
          <div class="actions card-actions"><${Button} icon="key" onClick=${login}>Make a login<//></div>
        <//>
      </div>
      ${dialog?.login && html`<${BrokerLoginDialog} login=${dialog.login} onClose=${() => setDialog(null)} />`}
      ${dialog?.setup && html`<${SetUp} setup=${dialog.setup} onClose=${() => setDialog(null)} />`}
      ${dialog?.end && html`<${TurnOff} onClose=${() => setDialog(null)} />`}
    <//>`;
}

function Password() {
  const form = useForm({ current: "", fresh: "", again: "" });
  const { current, fresh, again } = form.values;
  const save = async () => {
    if (fresh !== again) throw new Error("The two new passwords differ.");
    await post("/session/password", { current, new: fresh }, { once: true });
    await readSession();
    form.set({ current: "", fresh: "", again: "" });
    toast("Password changed");
  };
  return html`
    <${Card} title="Password">
      <${Form} submit="Change password" onSubmit=${save}>
        <input type="text" autocomplete="username" value=${session.get().name} readonly hidden />
        <${Field} label="Current password" type="password" required autocomplete="current-password" ...${form.bind("current")} />
        <${Field} label="New password" type="password" required minlength="12" autocomplete="new-password" hint="At least 12 characters." ...${form.bind("fresh")} />
        <${Field} label="New password once more" type="password" required autocomplete="new-password" ...${form.bind("again")} />
      <//>
    <//>`;
}

function SetUp({ setup, onClose }) {
  const form = useForm({ code: "" });
  const confirmIt = async () => {
    await post("/session/totp/confirm", { code: form.values.code.replace(/\s/g, "") }, { once: true });
    await readSession();
    toast("The second factor is on");
    onClose();
  };
  return html`
    <${Dialog} title="Set up a second factor" onClose=${onClose} firm>
      <p>Scan this with an authenticator app, then enter the code it shows.</p>
      <div class="claim-made">
        <img class="qr" width="180" height="180" alt="QR code for the authenticator app" src=${`data:image/svg+xml,${encodeURIComponent(setup.qr)}`} />
        <div class="form"><div class="field"><span class="field-label">Or type this key</span><${Code} wrap>${setup.secret}<//></div></div>
      </div>
      <${Form} submit="Confirm" onSubmit=${confirmIt} onCancel=${onClose}>
        <${Field} label="Code" required autofocus inputmode="numeric" autocomplete="one-time-code" maxlength="7" placeholder="123456" ...${form.bind("code")} />
      <//>
    <//>`;
}

function TurnOff({ onClose }) {
  const form = useForm({ password: "" });
  const end = async () => {
    await del("/session/totp", undefined, { body: { password: form.values.password }, once: true });
    await readSession();
    toast("The second factor is off");
    onClose();
  };
  return html`
    <${Dialog} title="Turn the second factor off" onClose=${onClose} firm>
      <p class="once"><${Icon} name="rejected" />From then on the password alone opens your account.</p>
      <${Form} submit="Turn off" kind="danger" onSubmit=${end} onCancel=${onClose}>
        <${Field} label="Password" type="password" required autofocus autocomplete="current-password" ...${form.bind("password")} />
      <//>
    <//>`;
}
