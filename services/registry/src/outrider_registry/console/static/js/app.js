// The console's beginning: who is signed in decides what is shown.
import { session } from "./api.js";
import { html, render, useEffect, useErrorBoundary, useState } from "./core.js";
import { Overlays } from "./overlays.js";
import { match, navigate, useLocation } from "./router.js";
import { ROUTES } from "./routes.js";
import { readSession, useSession } from "./session.js";
import { Shell } from "./shell.js";
import { Button, Empty, Problem, Spinner } from "./ui.js";

const pages = new Map();

/** The page of a route: a spinner while its module loads, the problem if that fails or its code throws. */
function PageOf({ route }) {
  const [, setLoaded] = useState(0);
  const [failed, setFailed] = useState(null);
  const [thrown, reset] = useErrorBoundary((error) => console.error(error));
  const Component = pages.get(route.load);
  useEffect(() => {
    if (Component) return;
    route.load().then((module) => {
      pages.set(route.load, module.default);
      setLoaded((n) => n + 1);
    }, setFailed);
  }, [route.load]);
  if (failed) {
    const error = new Error("This page could not be loaded. The console may have been updated meanwhile: reload it.");
    return html`<div class="page"><${Problem} error=${error} retry=${() => location.reload()} /></div>`;
  }
  if (thrown) {
    const error = new Error(`This page has failed: ${thrown.message}`);
    return html`<div class="page"><${Problem} error=${error} retry=${reset} /></div>`;
  }
  if (!Component) return html`<div class="waiting"><${Spinner} /></div>`;
  return html`<${Component} ...${route.params} />`;
}

const NotFound = () => html`
  <div class="page"><${Empty} title="There is no such page" icon="search"
    action=${html`<${Button} kind="primary" onClick=${() => navigate("/devices")}>To the devices<//>`}>
    The address may be mistyped, or the page has moved.<//></div>`;

const SIGN_IN = { load: () => import("./pages/sign-in.js"), params: {} };

/** A page starts anew for another tenant and another device, not for another tab or filter. */
const keyOf = (who, route, path) => [who.tenant, path.split("/")[1], route.each ? route.params.id : ""].join(" ");

function App() {
  const who = useSession();
  const { path, query, hash } = useLocation();
  const [problem, setProblem] = useState(null);
  const read = () => {
    setProblem(null);
    readSession().catch(setProblem);
  };
  useEffect(read, []);
  const signingIn = path === "/sign-in";
  const hasLink = signingIn && hash.startsWith("#link=");
  useEffect(() => {
    if (who === undefined) return;
    const at = location.pathname; // now: signing out has gone on already
    if (!who && at !== "/sign-in") navigate(at === "/" ? "/sign-in" : `/sign-in?to=${encodeURIComponent(at + location.search)}`, { replace: true });
    if (who && !hasLink && !who.must_set_password && (signingIn || path === "/")) {
      const to = query.to ?? "";
      navigate(/^\/(?![/\\])/.test(to) ? to : "/devices", { replace: true });
    }
  }, [who, path, hash]);

  if (problem) return html`<main class="alone"><${Problem} error=${problem} retry=${read} /></main>`;
  if (who === undefined) return html`<main class="alone"><${Spinner} /></main>`;
  if (!who || hasLink || who.must_set_password) return html`<${PageOf} key="sign-in" route=${SIGN_IN} />`;
  if (signingIn || path === "/") return null;
  const route = match(ROUTES, path);
  return html`
    <${Shell} needsTenant=${!route?.anyTenant}>
      ${route ? html`<${PageOf} key=${keyOf(who, route, path)} route=${route} />` : html`<${NotFound} />`}
    <//>`;
}

session.watch(() => { document.documentElement.dataset.signedIn = String(Boolean(session.get())); });
render(html`<${App} /><${Overlays} />`, document.getElementById("app"));
