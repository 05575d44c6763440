// Which server this page shows. Another project's server may get this page's address: no button may act on that one, and what is shown must
// not be of two projects.

const MOVED = 'autoappdev-moved';

let server = null;        // the one that answered last: its id, which changes with each start
let home = null;          // the runtime directory of the project that is shown

// Header fields by which another server knows that a request is not meant for it; it answers 421.
export const toThisServer = () => (server ? { 'AutoAppDev-Server': server.id } : {});

// Learns which server answers. Returns whether it serves the project that is shown. For another one the page is loaded again.
export async function identify(ask) {
  server = null;
  const { ok, body } = await ask('api/version');
  server = (ok && body.server) || null;
  home ??= server?.runtime_dir ?? null;
  if (!server || server.runtime_dir === home) return true;
  sessionStorage.setItem(MOVED, JSON.stringify([home, server.runtime_dir]));
  location.reload();
  return false;
}

// After such a load: what to say about it, once.
export function whatHasMoved() {
  const [before, now] = JSON.parse(sessionStorage.getItem(MOVED)) ?? [];
  sessionStorage.removeItem(MOVED);
  return before && ['Another server answers at this address now.', `This page showed ${before}.`, `It now shows ${now}.`];
}
