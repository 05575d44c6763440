// Logging in: by a link that `autoappdev pair` made, by the form, and again when the server asks for it in the middle.
//
// The token is never kept here: it is sent once, and what stays is a cookie that no script can read. A link's token stands in its
// fragment, which goes to no server and is wiped from the address bar before anything else.

const ANSWER_MS = 10000;

const $ = (id) => document.getElementById(id);

let entered = () => {};   // called when somebody has logged in
export let mayOnlyLook = false;
export let isLearned = false; // whether that was asked: until then nothing is offered

// Logs in with the link's token, if there is one. `then` is called after this and each later log-in.
export async function enterByLink(then = entered) {
  entered = then;
  const token = new URLSearchParams(location.hash.slice(1)).get('token');
  if (!token) return;
  history.replaceState(null, '', location.pathname + location.search);
  await logIn(token);
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
    $('may').textContent = mayOnlyLook ? 'Read-only access' : '';
    $('log-out').hidden = session.expires_at === null;
    $('session').hidden = !mayOnlyLook && session.expires_at === null;
  } catch {
    // The state's loop finds out what is wrong, and this is asked again when that is over.
  } finally {
    isLearned = true;
  }
}

async function send(path, body) {
  const response = await fetch(path, {
    method: 'POST', cache: 'no-store', signal: AbortSignal.timeout(ANSWER_MS),
    headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body),
  });
  return { ok: response.ok, ...await response.json() };
}

// The form stays, with what the server says, until it is right.
async function logIn(token) {
  const button = $('log-in');
  button.disabled = true;
  let problem;
  try {
    const answer = await send('api/login', { token });
    problem = answer.ok ? '' : answer.detail || answer.error;
  } catch {
    problem = 'The server did not answer. Try again.';
  }
  button.disabled = false;
  $('login-error').textContent = problem;
  if (!problem) {
    lock(false);
    entered();
  }
}

$('login').addEventListener('submit', (event) => {
  event.preventDefault();
  logIn($('token').value.trim());
});

$('log-out').addEventListener('click', async () => {
  try {
    await send('api/logout', {});
    // Nothing of what was seen stays on the screen.
    location.reload();
  } catch {
    $('may').textContent = 'The server did not answer: you are still logged in.';
  }
});

// A link that is opened where this page is open already changes the fragment only.
addEventListener('hashchange', () => enterByLink());
