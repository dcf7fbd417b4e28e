// The door: name and password with a second factor, or a link that is good once and leads to a password of one's own.
import { post, session } from "../api.js";
import { html, useEffect, useShared, useState } from "../core.js";
import { navigate, useLocation } from "../router.js";
import { passwordLater } from "../session.js";
import { Button, Field, Form, Logo, Spinner, toast, useForm } from "../ui.js";

export default function SignIn() {
  const who = useShared(session);
  const { hash } = useLocation();
  const [problem, setProblem] = useState("");
  const [waitsForCode, setWaitsForCode] = useState(null); // a link whose owner has a second factor
  const [agreed, setAgreed] = useState(false);
  const link = hash.startsWith("#link=") ? decodeURIComponent(hash.slice(6)) : null;
  // Somebody else may have sent the link, to have work done in an account of theirs.
  const asks = link && who && !agreed;
  useEffect(() => { document.title = "Sign in · Outrider"; }, []);
  useEffect(() => {
    if (!link || asks) return;
    post("/session/link", { link }, { once: true }).then(
      (signedIn) => {
        session.set(signedIn);
        navigate("/sign-in", { replace: true }); // the link is used up, and leaves the address
      },
      (error) => {
        if (error.problem?.needs_code) setWaitsForCode(link);
        else setProblem(error.message);
        navigate("/sign-in", { replace: true });
      },
    );
  }, [link, asks]);
  return html`
    <main class="sign-in">
      <div class="sign-in-box">
        <header><${Logo} size=${40} /><div><h1>Outrider</h1><p class="soft">Fleet telemetry</p></div></header>
        ${asks ? html`<${Switch} name=${who.name} onYes=${() => setAgreed(true)} />`
          : link ? html`<p class="soft sign-in-wait"><${Spinner} /> Signing in with the link …</p>`
          : who?.must_set_password ? html`<${FirstPassword} name=${who.name} />`
          : waitsForCode && !who ? html`<${LinkWithCode} link=${waitsForCode} />`
          : html`<${Password} problem=${problem} />`}
      </div>
    </main>`;
}

function Switch({ name, onYes }) {
  return html`
    <p>You are signed in as <strong>${name}</strong>. This link signs you in as whoever it was made for: use it only if you asked for it.</p>
    <div class="actions">
      <${Button} onClick=${onYes}>Use the link<//>
      <${Button} kind="primary" onClick=${() => navigate("/devices", { replace: true })}>${`Stay ${name}`}<//>
    </div>`;
}

function Password({ problem }) {
  const form = useForm({ name: "", password: "", code: "" });
  const [needsCode, setNeedsCode] = useState(false);
  const send = async () => {
    const { name, password, code } = form.values;
    try {
      session.set(await post("/session", { name: name.trim(), password, ...(code ? { code: code.replace(/\s/g, "") } : {}) }, { once: true }));
    } catch (error) {
      if (error.problem?.needs_code && !needsCode) {
        setNeedsCode(true);
        return;
      }
      if (error.status === 429 && error.retryAfter_s) error.message += ` Next try in ${Math.ceil(error.retryAfter_s / 60)} min.`;
      throw error;
    }
  };
  return html`
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <${Form} submit="Sign in" onSubmit=${send}>
      <${Field} label="Name" required autofocus autocomplete="username" autocapitalize="none" spellcheck="false" ...${form.bind("name")} />
      <${Field} label="Password" type="password" required autocomplete="current-password" ...${form.bind("password")} />
      ${needsCode && html`<${Field} key="code" label="Code of your authenticator app" required inputmode="numeric" autocomplete="one-time-code" maxlength="7"
        placeholder="123456" ref=${focusOnce} ...${form.bind("code")} />`}
    <//>
    <p class="hint">No password yet, or forgotten? An administrator makes a one-time link for you.</p>`;
}

function LinkWithCode({ link }) {
  const form = useForm({ code: "" });
  const send = async () => session.set(await post("/session/link", { link, code: form.values.code.replace(/\s/g, "") }, { once: true }));
  return html`
    <p>The link is good. Your account has a second factor: enter its code.</p>
    <${Form} submit="Sign in" onSubmit=${send}>
      <${Field} label="Code of your authenticator app" required autofocus inputmode="numeric" autocomplete="one-time-code" maxlength="7" placeholder="123456" ...${form.bind("code")} />
    <//>`;
}

const focusOnce = (field) => field?.base?.querySelector("input")?.focus();

function FirstPassword({ name }) {
  const form = useForm({ fresh: "", again: "" });
  const { fresh, again } = form.values;
  const different = again && fresh !== again && !fresh.startsWith(again);
  const send = async () => {
    if (fresh !== again) throw new Error("The two passwords differ.");
    await post("/session/password", { new: fresh }, { once: true });
    session.set((now) => ({ ...now, must_set_password: false }));
    toast("Password set. Use it from now on.");
  };
  return html`
    <p>Welcome, <strong>${name}</strong>. Choose a password for the next time.</p>
    <${Form} submit="Set password and go on" onSubmit=${send}>
      <input type="text" name="username" autocomplete="username" value=${name} readonly hidden />
      <${Field} label="New password" type="password" required autofocus minlength="12" autocomplete="new-password" hint="At least 12 characters." ...${form.bind("fresh")} />
      <${Field} label="Once more" type="password" required autocomplete="new-password" error=${different ? "Differs from the first." : undefined} ...${form.bind("again")} />
    <//>
    <p class="hint">The link was good once. <button type="button" class="as-link" onClick=${passwordLater}>Not now</button>: you will need another link the next time.</p>`;
}
