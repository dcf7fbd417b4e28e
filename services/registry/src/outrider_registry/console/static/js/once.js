// What is shown this once: one-time links and logins at the broker.
import { Button, Code, dateTime, Dialog, html, Icon } from "./ui.js";

/** A link that signs in `name` once. */
export const LinkDialog = ({ name, link, onClose }) => html`
  <${Dialog} title=${`One-time sign-in of ${name}`} onClose=${onClose} firm footer=${html`<${Button} kind="primary" onClick=${onClose}>Done<//>`}>
    <p class="once"><${Icon} name="key" />Whoever opens this link first is ${name}. Hand it over as you would a password; it is shown this once.</p>
    <${Code} wrap>${link.url}<//>
    <p class="hint">Good once, until ${dateTime(link.expires_at)}. A newer link ends this one.</p>
  <//>`;

/** A login at the broker: read-only, and what to run. */
export const BrokerLoginDialog = ({ login, onClose }) => html`
  <${Dialog} title="Login at the broker" onClose=${onClose} firm wide footer=${html`<${Button} kind="primary" onClick=${onClose}>I have kept it<//>`}>
    <p class="once"><${Icon} name="key" />The password is shown this once. It opens the tenant's telemetry, read-only, with Mosquitto's own tools.</p>
    <dl class="facts"><dt>Broker</dt><dd class="mono">${login.url}</dd><dt>User name</dt><dd class="mono">${login.username}</dd><dt>Client id</dt><dd class="mono">${login.client_id}</dd></dl>
    <div class="field"><span class="field-label">Password</span><${Code} wrap>${login.password}<//></div>
    <div class="field"><span class="field-label">Look at everything</span><${Code} wrap>${login.command}<//></div>
    <p class="hint">One client at a time: a second one takes the first one's place.</p>
  <//>`;
