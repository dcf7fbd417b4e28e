// Who is signed in, what they may do, and the emergency stop that everyone must see.
import { del, get, patch, session } from "./api.js";
import { shared, useShared } from "./core.js";

/** The emergency stop in force ({reason, stopped_by, stopped_at, everything}), or null. */
export const stop = shared(null);

/** Counts of the fleet from GET /overview, or null while unknown. */
export const overview = shared(null);

export const useSession = () => useShared(session);

/** True if who is signed in has this scope. The registry checks again; this only hides what would be refused. */
export const can = (scope) => session.get()?.scopes?.includes(scope) ?? false;

/** Ask who is signed in. Sets `session` to null when nobody is; throws when the registry cannot tell. */
export async function readSession() {
  try {
    session.set(asked(await get("/session")));
  } catch (error) {
    if (error.status !== 401) throw error;
    session.set(null);
  }
}

const LATER = "password-later";

/** Whoever came by a one-time link may put the password off, until this tab is closed. */
export function passwordLater() {
  try {
    sessionStorage.setItem(LATER, session.get().name);
  } catch {
    // asked again after a reload
  }
  session.set((now) => ({ ...now, must_set_password: false }));
}

function asked(who) {
  try {
    if (sessionStorage.getItem(LATER) === who.name) return { ...who, must_set_password: false };
  } catch {
    // without storage it is asked
  }
  return who;
}

/** Read counts and the stop again; does nothing before a tenant is chosen. */
export async function readOverview() {
  if (!session.get()?.tenant) return;
  const now = await get("/overview");
  overview.set(now);
  stop.set(now.stop ?? null);
}

/** Platform administrators: look at another tenant. */
export async function actIn(tenant) {
  session.set(asked(await patch("/session", { acting_in: tenant })));
  overview.set(null);
  await readOverview();
}

/** End the session here and at the registry. */
export async function signOut() {
  await del("/session").catch(() => undefined);
  session.set(null);
  overview.set(null);
  stop.set(null);
}
