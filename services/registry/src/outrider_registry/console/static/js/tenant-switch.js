// For administrators of the platform: which tenant they look at.
import { all, session } from "./api.js";
import { html, useEffect, useShared } from "./core.js";
import { navigate } from "./router.js";
import { actIn } from "./session.js";
import { Button, Empty, Loaded, Page, Spinner, toast, useData } from "./ui.js";

const read = () => all("/tenants", { limit: 500 });

/** The choice in the bar. */
export function TenantSwitch() {
  const who = useShared(session);
  const tenants = useData(read, []);
  const names = (tenants.data ?? []).map((one) => one.name);
  if (who.tenant && !names.includes(who.tenant)) names.unshift(who.tenant);
  return html`
    <label class="tenant-switch"><span class="sr-only">Tenant</span>
      <select value=${who.tenant ?? ""} onFocus=${tenants.reload} onChange=${(event) => actIn(event.target.value || null).catch(toast)}>
        <option value="" selected=${!who.tenant}>Choose a tenant</option>
        ${names.map((name) => html`<option value=${name} selected=${name === who.tenant}>${name}</option>`)}
      </select></label>`;
}

/** In place of a page that needs a tenant; of one only there is nothing to choose. */
export function TenantChoice() {
  const tenants = useData(read, []);
  const only = tenants.data?.length === 1 ? tenants.data[0].name : null;
  useEffect(() => {
    if (only) actIn(only).catch(toast);
  }, [only]);
  if (only) return html`<div class="waiting"><${Spinner} /></div>`;
  return html`
    <${Page} title="Choose a tenant" note="You administrate the platform. Pick whose devices to look at; you can change it at the top at any time.">
      <${Loaded} from=${tenants}>${(found) => found.length === 0
        ? html`<${Empty} title="No tenant yet" icon="tenants" action=${html`<${Button} kind="primary" icon="plus" onClick=${() => navigate("/tenants")}>To the tenants<//>`}>
            A tenant owns devices and people. Create the first one.<//>`
        : html`<ul class="choices">${found.map((one) => html`
            <li key=${one.name}><button type="button" class="choice" onClick=${() => actIn(one.name).catch(toast)}><strong>${one.title || one.name}</strong><span>${one.name}</span></button></li>`)}</ul>`}<//>
    <//>`;
}
