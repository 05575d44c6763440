// The identity of this page: which server it shows, who is logged in, and which page of this browser requests the state while all are hidden.
//
// Another project's server may get this page's address. No button may act on that server, and the page must not mix data of two projects.
//
// A login uses a link that `autoappdev pair` made, or the form, which also appears whenever the server asks for a token. The page stores neither a
// token nor a code. A login leaves a cookie, which no script can read, and its proof, which this page keeps in localStorage. A browser sends the
// cookie to every port of the host, and so to servers on other ports. The storage is separate for each port, and neither is valid without the other.
// A link's code is in the fragment, which the browser sends to no server. The page first removes it from the address bar.

import { $, el } from './dom.js';
import { sentence, T } from './words.js';

// Time limits of responses. The shorter one is for responses that bring the state or lines.
export const ANSWER_MS = 10000;
export const STATE_MS = 5000;
const PROOF_KEY = 'autoappdev-proof';
// The form of a one-time code. Any page can link here with another text, which is not sent.
const CODE = /^[a-z2-9]{4}(-[a-z2-9]{4}){5}$/;


// ---- The server ------------------------------------------------------------------------------------------------------------------

let server = null;        // the server of this project that answered last: its id, which changes with each start
let home = null;          // the runtime directory of the project that is shown
let answer = null;        // what the server says about itself

// Every request has this header field. A page of another origin cannot set it, so it identifies this page's requests even in
// browsers that do not send the origin.
export const OWN = { 'AutoAppDev-Client': 'page' };

// With these header fields another server detects that a request is not meant for it; it answers 421.
export const serverId = () => server?.id ?? null;
export const toThisServer = () => (server ? { ...OWN, 'AutoAppDev-Server': server.id } : OWN);

// The name of the server's machine, its version, its default grace, and the folder of its project.
export const host = () => answer?.host || null;
export const build = () => answer?.build ?? '';
export const grace = () => answer?.grace_s ?? null;
export const folder = () => (home ? home.replace(/\/runtime$/, '') : '');

// Requests the identity of the server. Returns whether it serves the project that is shown; if it does not, the page is reloaded. Requests keep
// naming the previous server until another server of this project is known, because the user may click at any time.
export async function identify(ask) {
  const { ok, status, body } = await ask('api/version');
  // The new server does nothing before a login, and its 401 starts one.
  if (status === 401) server = null;
  const found = ok && body.server;
  if (!found) return true;
  if (isOfThisProject(found.runtime_dir)) {
    [server, answer] = [found, body];
    if (body.session) takeRole(body.session);
    return true;
  }
  // Stored in the history, because that also works in a browser that forbids storage.
  history.replaceState({ moved: [home, found.runtime_dir] }, '');
  location.reload();
  return false;
}

// Returns whether this is the runtime directory of the project that is shown. The first directory sets the project.
export function isOfThisProject(runtimeDir) {
  home ??= runtimeDir ?? null;
  return runtimeDir === home;
}

export const project = () => home;

// Returns the notice about such a reload, once.
export function whatHasMoved() {
  const [before, now] = history.state?.moved ?? [];
  if (before) history.replaceState(null, '');
  return before && ['Another server answers at this address now.', `This page showed ${before}.`, `It now shows ${now}.`];
}

// ---- The login -------------------------------------------------------------------------------------------------------------------

let entered = () => {};   // called after a login, here or in another window
let sayNotice = () => {};      // shows a notice
let keptProofs;           // the proof of this browser's login
export let mayOnlyLook = false;
export let isLearned = false; // whether the role was requested; until then no action is offered

// Returns the result of `use`, or null if the browser forbids storage. Then a login and a choice last only until the page is closed or reloaded.
export function inStorage(use) {
  try {
    return use();
  } catch {
    return null;
  }
}

const stored = () => inStorage(() => JSON.parse(localStorage.getItem(PROOF_KEY))) ?? {};
keptProofs = stored();

function keepProofs(proofs) {
  keptProofs = proofs;
  inStorage(() => (proofs.proof ? localStorage.setItem(PROOF_KEY, JSON.stringify(proofs)) : localStorage.removeItem(PROOF_KEY)));
}

// The header field that each request of a logged-in page has.
export const proof = () => (keptProofs.proof ? { 'X-AutoAppDev-Proof': keptProofs.proof } : {});
// The same for a link to a log. It is valid for nothing else, because browsers keep the addresses of downloads in their history.
export const linkProof = () => (keptProofs.download_proof ? `&proof=${keptProofs.download_proof}` : '');

// Logs in with the link's code, if there is one. `then` is called after this and each later login, and `say` shows a notice.
export async function enterByLink(then = entered, say = sayNotice) {
  [entered, sayNotice] = [then, say];
  const link = new URLSearchParams(location.hash.slice(1));
  const code = link.get('code');
  if (code === null && !link.has('token')) return;
  history.replaceState(null, '', location.pathname + location.search);
  if (code === null) return;
  // A browser with full control needs no link: the code remains valid for another device, and a wrong one does not count as a wrong try.
  if (await mayAct()) {
    sayNotice('This browser has full control already.', 'The link was not used. You can still use it, once, in another browser.');
    return;
  }
  const problem = CODE.test(code) ? await logIn({ code })
    : refuse('The link has no valid code. To make a new link, run `autoappdev pair` on the server’s machine.');
  if (problem && $('login').hidden) sayNotice('The link could not be used.', problem);
}

function refuse(problem) {
  // Commands are between backticks.
  $('login-error').replaceChildren(...(problem && sentence(problem)).split('\x60').map((part, n) => (n % 2 ? el('code', '', part) : part)));
  return problem;
}

async function mayAct() {
  try {
    const { ok, session } = await request('api/session', {});
    return ok && session.may === 'act';
  } catch {
    return false;
  }
}

// Shows the form while the server asks for the token, and hides it afterwards.
export function lock(isLocked) {
  const form = $('login');
  if (form.hidden !== isLocked) return;
  form.hidden = !isLocked;
  // The form shows the same error as the notice.
  if (isLocked && $('login-error').textContent) $('trouble').hidden = true;
  if (!isLocked) $('login-error').textContent = $('token').value = '';
}

// Shows what this page may do. If a browser has logged in more than once, the latest login applies in all of its windows.
function takeRole({ may, expires_at: until }) {
  isLearned = true;
  mayOnlyLook = may === 'look';
  $('may').textContent = mayOnlyLook ? T.readOnly : until === null ? T.fullAccess : T.loggedIn;
  $('log-out').hidden = until === null;
}

// Requests what this page may do. It uses `ask` of app.js, which also detects that a login has ended.
export async function learnRole(ask) {
  try {
    const { ok, body: { session } } = await ask('api/session', null, ANSWER_MS);
    if (!ok) return;
    takeRole(session);
  } catch {
    // The state's loop finds the cause, and the role is requested again afterwards.
  } finally {
    isLearned = true;
  }
}

async function request(path, init) {
  const response = await fetch(path, {
    cache: 'no-store', signal: AbortSignal.timeout(ANSWER_MS), ...init, headers: { ...init.headers, ...OWN, ...proof() },
  });
  return { ok: response.ok, ...await response.json() };
}

const send = (path, body) =>
  request(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });

// The form stays open, with the server's error, until the login succeeds. Resolves to that error, or to an empty text.
async function logIn(shown) {
  const button = $('log-in');
  button.disabled = true;
  let problem;
  try {
    const answer = await send('api/login', shown);
    problem = answer.ok ? '' : answer.detail || answer.error;
    if (answer.proof) keepProofs({ proof: answer.proof, download_proof: answer.download_proof });
  } catch {
    problem = 'The server did not answer. Try again.';
  }
  button.disabled = false;
  refuse(problem);
  if (!problem) {
    lock(false);
    entered();
  }
  return problem;
}

$('login').onsubmit = (event) => {
  event.preventDefault();
  logIn({ token: $('token').value.trim() });
};

$('log-out').onclick = async () => {
  try {
    const { ok, detail } = await send('api/logout', {});
    keepProofs({});
    // The reload clears the screen. An error is shown after the reload.
    history.replaceState(ok ? null : { problem: detail }, '');
    location.reload();
  } catch {
    $('may').textContent = 'The server did not answer: you are still logged in.';
  }
};

if (history.state?.problem) {
  $('login-error').textContent = history.state.problem;
  history.replaceState(null, '');
}

// Opening a link in a tab that already shows this page changes only the fragment.
addEventListener('hashchange', () => enterByLink());

// Another window of this browser has logged in or out.
addEventListener('storage', ({ key }) => {
  if (key !== PROOF_KEY && key !== null) return;
  keptProofs = stored();
  entered();
});

// ---- The other pages of this browser ---------------------------------------------------------------------------------------------

// The title of a hidden page must still show the state of the pipeline: one of all hidden pages requests it with a long poll, and passes it on to
// the others. A browser allows six connections to a server for all its windows, so not every page can have its own.
//
// How the polling page is chosen: a page that polls announces that with its random number, and of two pages the one with the smaller number
// continues. A visible page has the smallest number, because it follows the state anyway. A page that has received nothing for a while starts to
// poll.

const QUIET_MS = 70000;     // longer than the polling page is ever silent
const FOLLOW_UP_MS = 1000;    // within this time, another page replaces a polling page that was closed
const SEEN = 0;               // the number of a visible page

// `take(message)` receives another page's state, and `kick()` makes this page begin or end polling. `say` sends to the others; `pause` returns how
// long not to poll.
export function makeQuiet({ take, kick }) {
  const number = 1 + Math.random();
  const mine = () => (document.hidden ? number : SEEN);
  const channel = new BroadcastChannel('autoappdev');
  let silentUntil = 0;        // by performance.now(): until then another page polls
  let isAsking = false;

  channel.onmessage = ({ data }) => {
    if (!document.hidden) {
      // A hidden page polls although this visible one already does.
      if (data.number !== SEEN && !data.isOver) say({});
      return;
    }
    if (data.isOver) {
      silentUntil = performance.now() + Math.random() * FOLLOW_UP_MS;
      kick();
    } else if (isAsking && data.number > number) {
      say({});
    } else {
      silentUntil = performance.now() + QUIET_MS;
      if (isAsking) kick();
      isAsking = false;
      if (data.pipeline) take(data);
    }
  };
  addEventListener('pagehide', () => {
    if (!document.hidden || isAsking) say({ isOver: true });
    isAsking = false;
  });

  function say(what) {
    channel.postMessage({ ...what, number: mine() });
  }

  // Returns how long this page must not poll, in ms. 0: it polls now, and announces that.
  function pause() {
    if (!document.hidden) {
      isAsking = false;
      return 0;
    }
    const left = silentUntil - performance.now();
    if (left > 0) return left;
    if (!isAsking) say({});
    isAsking = true;
    return 0;
  }

  return { say, pause };
}
