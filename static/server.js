// Which server this page shows. Another project's server may get this page's address: no button may act on that one, and what is shown must
// not be of two projects.

let server = null;        // the one of this project that answered last: its id, which changes with each start
let home = null;          // the runtime directory of the project that is shown
let answer = null;        // what the server says about itself

// Every request has this header field. A page of another origin cannot set it, so it identifies this page's requests even in
// browsers that do not send the origin.
export const OWN = { 'AutoAppDev-Client': 'page' };

// Header fields by which another server knows that a request is not meant for it; it answers 421.
export const serverId = () => server?.id ?? null;
export const toThisServer = () => (server ? { ...OWN, 'AutoAppDev-Server': server.id } : OWN);

// The name of the server's machine, its version, and the folder of its project.
export const host = () => answer?.host || null;
export const build = () => answer?.build ?? '';
export const folder = () => (home ? home.replace(/\/runtime$/, '') : '');

// Learns which server answers. Returns whether it serves the project that is shown. For another one the page is loaded again.
// Until another server of this project is known, requests stay meant for the one before: a click may come at any time.
export async function identify(ask) {
  const { ok, status, body } = await ask('api/version');
  // It does nothing before a log-in, and that begins with its 401.
  if (status === 401) server = null;
  const found = ok && body.server;
  if (!found) return true;
  if (isOfThisProject(found.runtime_dir)) {
    [server, answer] = [found, body];
    return true;
  }
  // In the history, because a browser that may store nothing has that too.
  history.replaceState({ moved: [home, found.runtime_dir] }, '');
  location.reload();
  return false;
}

// Whether this runtime directory is that of the project that is shown; the first one is.
export function isOfThisProject(runtimeDir) {
  home ??= runtimeDir ?? null;
  return runtimeDir === home;
}

export const project = () => home;

// After such a load: what to say about it, once.
export function whatHasMoved() {
  const [before, now] = history.state?.moved ?? [];
  if (before) history.replaceState(null, '');
  return before && ['Another server answers at this address now.', `This page showed ${before}.`, `It now shows ${now}.`];
}
