// Logging in: by a link that `autoappdev pair` made, by the form, and again when the server asks for it in the middle.
//
// The page stores neither a token nor a code. A login leaves a cookie, which no script can read, and its proof, which this page keeps in
// localStorage. A browser sends the cookie to every port of the host, and so to servers on other ports; the storage is separate for each port,
// and neither is valid without the other. A link's code is in the fragment, which the browser sends to no server, and the page removes it from
// the address bar before anything else.

import { OWN } from './server.js';
import { T } from './words.js';

const ANSWER_MS = 10000;
const KEY = 'autoappdev-proof';
// The form of a one-time code. Any page can lead here with another text, which is not sent.
const CODE = /^[a-z2-9]{4}(-[a-z2-9]{4}){5}$/;

const $ = (id) => document.getElementById(id);

let entered = () => {};   // called after a login, here or in another window
let tell = () => {};      // shows a notice
let kept = stored();      // the proof of this browser's login
export let mayOnlyLook = false;
export let isLearned = false; // whether that was asked: until then nothing is offered

// If the browser forbids storage, a login lasts only until the page is closed or reloaded.
function stored() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

function keep(proofs) {
  kept = proofs;
  try {
    if (proofs.proof) localStorage.setItem(KEY, JSON.stringify(proofs));
    else localStorage.removeItem(KEY);
  } catch {
    // Storage is forbidden: see `stored`.
  }
}

// The header field that each request of a logged-in page carries.
export const proof = () => (kept.proof ? { 'X-AutoAppDev-Proof': kept.proof } : {});
// The same for a link to a log. It is valid for nothing else, because browsers keep the addresses of downloads in their history.
export const linkProof = () => (kept.download_proof ? `&proof=${kept.download_proof}` : '');

// Logs in with the link's code, if there is one. `then` is called after this and each later login, and `say` shows a notice.
export async function enterByLink(then = entered, say = tell) {
  [entered, tell] = [then, say];
  const link = new URLSearchParams(location.hash.slice(1));
  const code = link.get('code');
  if (code === null && !link.has('token')) return;
  history.replaceState(null, '', location.pathname + location.search);
  if (code === null) return;
  // A browser with full control needs no link: the code remains valid for another device, and a wrong one does not count as a wrong try.
  if (await mayAct()) {
    tell('This browser has full control already.', 'The link was not used. You can still use it, once, in another browser.');
    return;
  }
  const problem = CODE.test(code) ? await logIn({ code }) : refuse('The link has no valid code. To make a new link, run `autoappdev pair` on the server’s machine.');
  if (problem && $('login').hidden) tell('The link could not be used.', problem);
}

function refuse(problem) {
  $('login-error').textContent = problem;
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

// Shows the form while the server asks for the token, and takes it away again.
export function lock(isLocked) {
  const form = $('login');
  if (form.hidden !== isLocked) return;
  form.hidden = !isLocked;
  if (!isLocked) $('login-error').textContent = $('token').value = '';
}

// Asks what this page may do here, by `ask` of app.js, which also learns of a log-in that has ended.
export async function learn(ask) {
  try {
    const { ok, body: { session } } = await ask('api/session', null, ANSWER_MS);
    if (!ok) return;
    mayOnlyLook = session.may === 'look';
    const isLoggedIn = session.expires_at !== null;
    // If a browser has logged in more than once, the latest login applies in all of its windows.
    $('may').textContent = mayOnlyLook ? T.readOnly : isLoggedIn ? T.loggedIn : T.fullAccess;
    $('log-out').hidden = !isLoggedIn;
  } catch {
    // The state's loop finds out what is wrong, and this is asked again when that is over.
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
    if (answer.proof) keep({ proof: answer.proof, download_proof: answer.download_proof });
  } catch {
    problem = 'The server did not answer. Try again.';
  }
  button.disabled = false;
  $('login-error').textContent = problem;
  if (!problem) {
    lock(false);
    entered();
  }
  return problem;
}

$('login').addEventListener('submit', (event) => {
  event.preventDefault();
  logIn({ token: $('token').value.trim() });
});

$('log-out').addEventListener('click', async () => {
  try {
    const { ok, detail } = await send('api/logout', {});
    keep({});
    // The reload clears the screen. An error is shown after the reload.
    history.replaceState(ok ? null : { problem: detail }, '');
    location.reload();
  } catch {
    $('may').textContent = 'The server did not answer: you are still logged in.';
  }
});

if (history.state?.problem) {
  $('login-error').textContent = history.state.problem;
  history.replaceState(null, '');
}

// A link that is opened where this page is open already changes the fragment only.
addEventListener('hashchange', () => enterByLink());

// Another window of this browser has logged in or out.
addEventListener('storage', ({ key }) => {
  if (key !== KEY && key !== null) return;
  kept = stored();
  entered();
});
