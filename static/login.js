// Logging in: by a link that `autoappdev pair` made, by the form, and again when the server asks for it in the middle.
//
// Neither a token nor a code is kept here. What stays is a cookie that no script can read, and its proof, which this page keeps in its
// storage. A browser sends the cookie to every port of the host, and so to whoever serves another one; the storage is this port's alone, and
// each is good for nothing without the other. A link's code stands in its fragment, which goes to no server, and is wiped from the address
// bar before anything else.

import { OWN } from './server.js';

const ANSWER_MS = 10000;
const KEY = 'autoappdev-proof';

const $ = (id) => document.getElementById(id);

let entered = () => {};   // called when somebody has logged in, here or in another window
let tell = () => {};      // shows a notice
let kept = stored();      // the proof of this browser's log-in
export let mayOnlyLook = false;
export let isLearned = false; // whether that was asked: until then nothing is offered

// A browser may forbid storage. Then a log-in lasts as long as the page.
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
    // As above.
  }
}

// The header field of each request that is made for whoever is logged in.
export const proof = () => (kept.proof ? { 'X-AutoAppDev-Proof': kept.proof } : {});
// The same in a link to a log. It is good for nothing else, because a browser keeps the addresses of downloads.
export const linkProof = () => (kept.download_proof ? `&proof=${kept.download_proof}` : '');

// Logs in with the link's code, if there is one. `then` is called after this and each later log-in, and `say` shows a notice.
export async function enterByLink(then = entered, say = tell) {
  [entered, tell] = [then, say];
  const link = new URLSearchParams(location.hash.slice(1));
  const code = link.get('code');
  if (code === null && !link.has('token')) return;
  history.replaceState(null, '', location.pathname + location.search);
  if (code === null) return;
  // Whoever may act needs no link: this one stays good for another device, and if it is wrong, that is no wrong try.
  if (await mayAct()) {
    tell('This browser has full control already.', 'The link was not used: it still works, once, in another browser.');
    return;
  }
  const problem = await logIn({ code });
  if (problem && $('login').hidden) tell('The link could not be used.', problem);
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
  if (isLocked) $('session').hidden = true;
  else $('login-error').textContent = $('token').value = '';
}

// Asks what this page may do here, by `ask` of app.js, which also learns of a log-in that has ended.
export async function learn(ask) {
  try {
    const { ok, body: { session } } = await ask('api/session', null, ANSWER_MS);
    if (!ok) return;
    mayOnlyLook = session.may === 'look';
    const isLoggedIn = session.expires_at !== null;
    // Of several log-ins of one browser the latest counts, in all of its windows.
    $('may').textContent = mayOnlyLook ? 'Read-only access' : isLoggedIn ? 'Logged in, with full control' : '';
    $('log-out').hidden = !isLoggedIn;
    $('session').hidden = !mayOnlyLook && !isLoggedIn;
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

// The form stays, with what the server says, until it is right. Resolves to what is wrong.
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
    // Nothing of what was seen stays on the screen. What went wrong is said on the next page.
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
