// What surrounds every page: navigation, search, tenant, the emergency stop and its banner, the account.
import { session, withQuery } from "./api.js";
import { setTheme, theme } from "./colours.js";
import { html, shared, useEffect, useRef, useShared, useState } from "./core.js";
import { count } from "./format.js";
import { Icon, Logo } from "./icons.js";
import { navigate, useLocation, useQuery } from "./router.js";
import { NAVIGATION } from "./routes.js";
import { can, overview, readOverview, signOut } from "./session.js";
import { StopBanner, StopButton } from "./stop.js";
import { TenantChoice, TenantSwitch } from "./tenant-switch.js";
import { Button } from "./ui.js";

const REFRESH_MS = 10000;
const keys = shared(false);

/** The frame; `needsTenant`: the page shows a tenant's data, so a platform administrator must have chosen one. */
export function Shell({ needsTenant, children }) {
  const who = useShared(session);
  const { path } = useLocation();
  const [open, setOpen] = useState(false);
  useEffect(() => setOpen(false), [path]);
  useEffect(() => {
    const read = () => document.hidden || readOverview().catch(() => undefined); // the page itself tells what is wrong
    read();
    const timer = setInterval(read, REFRESH_MS);
    return () => clearInterval(timer);
  }, [who.tenant]);
  useEffect(() => {
    const press = (event) => {
      const busy = event.target.closest?.("input, textarea, select, dialog, [contenteditable]");
      if (event.key === "Escape") setOpen(false);
      if (busy || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "/") {
        event.preventDefault();
        (document.querySelector("main [data-search]") ?? document.getElementById("search")).focus();
      } else if (event.key === "?") keys.set(true);
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, []);

  return html`
    <a class="skip" href="#content" onClick=${(event) => { event.preventDefault(); document.getElementById("content").focus(); }}>To the content</a>
    <div class="shell">
      <header class="bar">
        <button type="button" class="button quiet square menu-button" aria-label="Menu" aria-expanded=${open ? "true" : "false"} aria-controls="navigation"
          onClick=${() => setOpen(!open)}><${Icon} name=${open ? "close" : "menu"} size=${20} /></button>
        <a class="brand" href="/devices" aria-label="Outrider, to the devices"><${Logo} /><span class="brand-name">Outrider</span></a>
        <${Search} />
        <div class="bar-end">
          ${who.platform && html`<${TenantSwitch} />`}
          <${StopButton} />
          <${Account} />
        </div>
      </header>
      <${StopBanner} />
      <nav id="navigation" class=${open ? "navigation open" : "navigation"} aria-label="Main"><${Navigation} path=${path} /></nav>
      ${open && html`<div class="veil" onClick=${() => setOpen(false)}></div>`}
      <main id="content" tabindex="-1">${needsTenant && !who.tenant ? html`<${TenantChoice} />` : children}</main>
    </div>
    <${Keys} />`;
}

function Navigation({ path }) {
  const counts = useShared(overview);
  const badges = { "/rejected": counts?.rejected_24h, "/sequences": counts?.gaps, "/claims": counts?.pending, "/commands": counts?.open_commands, "/trips": counts?.open_trips };
  return html`
    ${NAVIGATION.map(([title, items]) => {
      const shown = items.filter(([, , , scope]) => can(scope));
      return shown.length > 0 && html`
        <section key=${title}>
          <h2>${title}</h2>
          <ul>${shown.map(([to, name, icon]) => html`
            <li key=${to}><a href=${to} aria-current=${path === to || path.startsWith(`${to}/`) ? "page" : undefined}>
              <${Icon} name=${icon} /><span>${name}</span>
              ${badges[to] > 0 && html`<span class=${["/claims", "/commands", "/trips"].includes(to) ? "badge" : "badge warn"}>${count(badges[to])}</span>`}
            </a></li>`)}
          </ul>
        </section>`;
    })}
    ${session.get()?.platform && html`<div class="navigation-tenant"><${TenantSwitch} /></div>`}
    <div class="navigation-foot">
      <${ThemeSwitch} />
      <button type="button" class="button quiet" onClick=${() => keys.set(true)}>Keys <kbd>?</kbd></button>
      <span class="version">${session.get()?.version}</span>
    </div>`;
}

/** Finds devices from everywhere: among the devices while typing, elsewhere with Enter. */
function Search() {
  const input = useRef();
  const { path, query } = useLocation();
  const [, setQuery] = useQuery();
  const [text, setText] = useState("");
  const here = path === "/devices";
  const q = here ? query.q ?? "" : "";
  useEffect(() => setText(q), [here, q]);
  useEffect(() => {
    if (!here || text.trim() === q) return undefined;
    const timer = setTimeout(() => setQuery({ q: text.trim() }), 250);
    return () => clearTimeout(timer);
  }, [text]);
  const go = (event) => {
    event.preventDefault();
    navigate(withQuery("/devices", here ? { ...query, q: text.trim() } : { q: text.trim() }));
    document.querySelector("main tbody tr")?.focus();
  };
  return html`
    <form class="search" role="search" onSubmit=${go}>
      <${Icon} name="search" size=${16} />
      <input id="search" ref=${input} type="search" aria-label="Find devices" placeholder="Find devices" title="Parts of id, name, serial number or tags" value=${text}
        autocomplete="off" onInput=${(event) => setText(event.target.value)} onKeyDown=${(event) => event.key === "Escape" && event.target.blur()} />
      <kbd aria-hidden="true">/</kbd>
    </form>`;
}

function ThemeSwitch() {
  const [now, setNow] = useState(theme());
  const next = { auto: "light", light: "dark", dark: "auto" }[now];
  const icon = { auto: "auto", light: "sun", dark: "moon" }[now];
  const name = { auto: "as the system", light: "light", dark: "dark" };
  return html`
    <button type="button" class="button quiet square" aria-label=${`Theme: ${name[now]}. Switch to ${name[next]}`} title=${`Theme: ${name[now]}`}
      onClick=${() => { setTheme(next); setNow(next); }}><${Icon} name=${icon} /></button>`;
}

function Account() {
  const who = useShared(session);
  const [open, setOpen] = useState(false);
  const box = useRef();
  const { path } = useLocation();
  useEffect(() => setOpen(false), [path]);
  useEffect(() => {
    if (!open) return undefined;
    const close = (event) => {
      if (event.key === "Escape" || (event.type === "pointerdown" && !box.current?.contains(event.target))) setOpen(false);
    };
    document.addEventListener("pointerdown", close);
    document.addEventListener("keydown", close);
    return () => {
      document.removeEventListener("pointerdown", close);
      document.removeEventListener("keydown", close);
    };
  }, [open]);
  return html`
    <div class="account" ref=${box}>
      <button type="button" class="avatar" aria-label=${`Account of ${who.name}`} aria-haspopup="true" aria-expanded=${open ? "true" : "false"}
        onClick=${() => setOpen(!open)}>${who.name.slice(0, 1).toUpperCase()}</button>
      ${open && html`
        <div class="menu">
          <div class="menu-head"><strong>${who.name}</strong><span>${who.platform ? "administrator of the platform" : `${who.role} in ${who.home}`}</span></div>
          <a href="/profile"><${Icon} name="profile" />Profile and second factor</a>
          <${Button} kind="quiet" icon="out" onClick=${async () => { await signOut(); navigate("/sign-in"); }}>Sign out<//>
        </div>`}
    </div>`;
}

const KEYS = [["/", "find devices, or what the page lists"], ["↑ ↓", "move through a list"], ["Enter", "open"], ["← →", "move between tabs"], ["Esc", "close a dialog or menu"], ["?", "these keys"]];

function Keys() {
  const open = useShared(keys);
  const dialog = useRef();
  useEffect(() => {
    if (open && !dialog.current.open) dialog.current.showModal();
  }, [open]);
  const close = () => {
    dialog.current.close();
    keys.set(false);
  };
  return html`
    <dialog class="dialog small" ref=${dialog} aria-label="Keys" onClose=${() => keys.set(false)} onMouseDown=${(event) => event.target === dialog.current && close()}>
      <div class="dialog-box">
        <header class="dialog-head"><h2>Keys</h2><button type="button" class="button quiet square" aria-label="Close" onClick=${close}><${Icon} name="close" /></button></header>
        <dl class="keys">${KEYS.map(([key, what]) => html`<dt><kbd>${key}</kbd></dt><dd>${what}</dd>`)}</dl>
      </div>
    </dialog>`;
}
