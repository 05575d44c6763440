// The status page's behaviour: follows the pipeline over the HTTP API, shows it, and sends the four actions. The log is feed.js (where it
// comes from), log.js, find.js and ansi.js (what becomes of it).
//
// It holds no rule of the life cycle: which action is possible now is what the API lists in `allowed`. What it cannot know it
// calls unknown: without a connection nothing old is shown as the present. Two loops run, one for the log (a stream) and one for the
// state, which asks when the stream tells of a change and waits with a long poll only where there is no stream: a browser has six
// connections for all its windows, and one that waits in each of them is enough. Both rest while the page is hidden, for a phone's
// battery. Text from outside is put in by textContent only.

import { makeFeed } from './feed.js';
import { searchHooks } from './find.js';
import { attach } from './log.js';
import { enterByLink, learn, lock, mayOnlyLook } from './login.js';
import { showProgress, tick } from './progress.js';

const ACTIONS = ['start', 'pause', 'resume', 'stop'];
const DOING = { start: 'starting…', pause: 'pausing…', resume: 'resuming…', stop: 'stopping…' };
const TIMES = ['started_at', 'paused_at', 'resumed_at', 'stopped_at'];
const WAIT_S = 25;           // one long poll
const WAIT_PENDING_S = 1;    // while an action is under way: its end may change no version
const ANSWER_MS = 5000;      // how much longer than asked an answer may take
const BACKOFF_MS = [1000, 10000];
const ACT_MS = 3700e3;       // an action's answer: a stop may wait for the longest grace
const HIDDEN_MS = 10000;     // a state from before the page was hidden for longer is not shown as the present one
const SETTLE_MS = 700;       // after a click no button works, so that a double click is not two actions

// Names of the signals that end processes, by number, as on Linux for x86 and Arm.
const SIGNALS = { 1: 'HUP', 2: 'INT', 3: 'QUIT', 4: 'ILL', 5: 'TRAP', 6: 'ABRT', 7: 'BUS', 8: 'FPE', 9: 'KILL', 10: 'USR1',
  11: 'SEGV', 12: 'USR2', 13: 'PIPE', 14: 'ALRM', 15: 'TERM', 16: 'STKFLT', 24: 'XCPU', 25: 'XFSZ', 26: 'VTALRM', 27: 'PROF',
  29: 'IO', 30: 'PWR', 31: 'SYS' };

// What to do next, by the API's stable error code.
const HINTS = {
  invalid_transition: 'The pipeline changed first: by itself, or another client was quicker. The state above is the present one.',
  script_not_found: 'Put the script in its place, or name another in AUTOAPPDEV_PIPELINE_SCRIPT and restart the server.',
  invalid_script: 'Name a script file in AUTOAPPDEV_PIPELINE_SCRIPT and restart the server.',
  script_outside_root: 'Move the script into the root folder (AUTOAPPDEV_PIPELINE_CWD), or set another root and restart the server.',
  spawn_failed: 'Look at the script’s first line (#!…), its execute bit and the log, then press Start again.',
  busy: 'The action may still be under way. Watch the state above before trying again.',
  pause_timeout: 'The pause was undone. Try again in a moment: a process waiting for a disk or the network can’t be stopped.',
  resume_failed: 'Press Resume again, or Stop.',
  storage_failed: 'Look at the disk and the server’s log, backend.log, then try again.',
  disk_full: 'Make room on the server’s disk, then try again.',
  unauthorized: 'Log in above, then press it again.',
  read_only: 'Log out, and log in with the other token or its link.',
  lost: 'It may or may not have happened. The state above shows it as soon as the server answers.',
};

const $ = (id) => document.getElementById(id);
// Of two words on one run's progress: an answer and the stream may pass each other.
const later = (a, b) => (a && !(b?.at >= a.at) ? a : b);

let pipeline = null;      // the latest answer; kept while disconnected, as the last known
let connected = false;
let failures = 0;         // state requests in a row without a state
let refusal = '';         // what the server said in place of a state
let locked = false;       // the server asks for its token
let doubt = false;        // the next state request is to be answered at once
let isAsked = false;      // whether one that is answered at once is under way
let heard = Date.now();   // when the server last answered as it should, by this device's clock
let skew = 0;             // the server's clock minus this device's, in ms
let hidden = null;        // since when the page is hidden, by this device's clock
let clicked = -Infinity;  // when an action was last sent, by performance.now()
let settled = true;       // whether a state has come in since then
let said;                 // what a screen reader was last told
const asked = new Set();  // the actions sent and not yet answered

// ---- Words and times -------------------------------------------------------------------------------------------------

const clockFormat = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const dayFormat = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short', year: 'numeric' });

// A time of the server as this device's local time; with the day where that is not today.
function localTime(ms) {
  const [day, today] = [dayFormat.format(ms), dayFormat.format(Date.now() + skew)];
  return (day === today ? '' : day + ', ') + clockFormat.format(ms);
}

function ago(ms) {
  const s = Math.max(0, Math.floor((Date.now() + skew - ms) / 1000));
  if (s < 5) return 'just now';
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min ago`;
  const days = Math.floor(s / 86400);
  return days === 1 ? '1 day ago' : `${days} days ago`;
}

function ending(p) {
  if (p.signal !== null) return `ended by signal ${p.signal}` + (SIGNALS[p.signal] ? ` (SIG${SIGNALS[p.signal]})` : '');
  return p.exit_code === null ? '' : `exit code ${p.exit_code}`;
}

// The run's status as a person would say it.
function statusWords(p) {
  switch (p.status) {
    case 'idle': return 'has not run yet';
    case 'completed': return `completed, ${ending(p)}`;
    case 'failed':
      if (p.error) return `failed: ${p.error}`;
      return p.exit_code === null ? ending(p) || 'failed' : `failed with exit code ${p.exit_code}`;
    case 'stopped': return 'stopped on request' + (ending(p) && `, ${ending(p)}`);
    case 'lost': return `lost: ${p.error || 'nobody saw how it ended'}`;
    default: return `is ${p.status}`;
  }
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? '' : '.');
}

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// ---- The state -------------------------------------------------------------------------------------------------------

function show() {
  const p = pipeline;
  lock(locked);
  // Before the first log-in there is nothing else to show.
  document.body.toggleAttribute('data-locked', locked && !p);
  if (!p) return showConnection();
  const state = connected ? p.state : 'unknown';
  const words = statusWords(p);
  document.body.dataset.state = state;
  document.body.dataset.status = connected ? p.status : 'unknown';
  set($('state'), state);
  const run = p.run_id === null ? words : `run ${p.run_id} ${words}`;
  set($('status'), connected ? run : `last known at ${clockFormat.format(heard)}: ${run}`);
  const doing = connected && p.pending ? DOING[p.pending] || p.pending : '';
  set($('pending'), doing);
  $('pending').hidden = !doing;
  set($('detail'), connected && p.detail ? sentence(p.detail) : '');
  $('detail').hidden = !$('detail').textContent;
  set($('script'), p.script || 'no script configured');
  set($('run-id'), String(p.run_id ?? '–'));
  set($('pid'), String(p.pid ?? '–'));
  showTimes();
  showProgress(p.run_id, p.progress ?? null, p, Date.now() + skew, ask);
  showDownloads();
  showButtons();
  showConnection();
  showTitle(doing || state);
  $('icon').href = `static/favicon${/^(running|paused|stopped)$/.test(state) ? `-${state}` : ''}.svg`;
  if (connected) say(`Pipeline ${doing || state + (state === 'stopped' ? `: ${words}.` : '.')}`);
  else if (locked) say('The server asks for its token.');
  else if (failures) say('No connection to the server.');
}

// A hidden page asks nothing, so its title says of when it is.
function showTitle(word) {
  const when = hidden === null ? '' : ` at ${clockFormat.format(hidden)}`;
  const name = pipeline.script ? pipeline.script.split('/').pop() : 'no script';
  document.title = `${connected ? word : locked ? 'log in' : 'no connection'}${when} · ${name} — AutoAppDev`;
}

function showTimes() {
  for (const key of TIMES) {
    const at = pipeline[key], element = $(key.replace('_', '-'));
    if (at) {
      const ms = Date.parse(at);
      set(element, `${localTime(ms)} (${ago(ms)})`);
      element.dateTime = element.title = at;
    } else {
      set(element, '–');
      element.removeAttribute('datetime');
      element.removeAttribute('title');
    }
  }
}

// The whole log of the run: as it is kept, with times, and as the pipeline wrote it.
function showDownloads() {
  $('downloads').hidden = pipeline.run_id === null;
  const log = `api/runs/${pipeline.run_id}/log?download=1`;
  for (const [id, href] of [['download', log], ['download-plain', `${log}&timestamps=0`]]) {
    if ($(id).getAttribute('href') !== href) $(id).setAttribute('href', href);
  }
}

// Enables what the API allows. A button that had the focus and is disabled hands it to the group around it: the next Tab goes
// to the first button that works, and a repeated Enter does nothing.
function showButtons() {
  const kill = connected && pipeline.pending === 'stop' && pipeline.allowed.includes('stop');
  const ready = connected && !mayOnlyLook && settled && performance.now() - clicked >= SETTLE_MS;
  set($('stop'), kill ? 'Kill now' : 'Stop');
  for (const action of ACTIONS) {
    const button = $(action);
    const enabled = ready && pipeline.allowed.includes(action) && !asked.has(action === 'stop' && kill ? 'kill' : action);
    const focused = document.activeElement === button;
    button.disabled = !enabled;
    if (focused && !enabled) $('controls').focus({ preventScroll: true });
  }
}

function showConnection() {
  const banner = $('connection');
  banner.hidden = connected || locked || !failures;
  if (!banner.hidden) {
    set(banner, (refusal ? `The server does not tell the state: ${refusal}; trying again.`
      : `No connection to the server since ${clockFormat.format(heard)}; trying again.`)
      + (pipeline && pipeline.state !== 'stopped' ? ' The pipeline itself goes on without it.' : ''));
  }
}

// Tells a screen reader, once for each change; the first state is on the page anyway.
function say(text) {
  if (said !== undefined && said !== text) $('announce').textContent = text;
  said = text;
}

function showError(action, answer) {
  $('trouble').hidden = false;
  const title = document.createElement('strong');
  title.textContent = `${action.charAt(0).toUpperCase() + action.slice(1)} did not work.`;
  const lines = [sentence(answer.detail), HINTS[answer.error] || 'The server’s log, backend.log, may say more.'];
  $('error').replaceChildren(title, ...lines.map((line) => {
    const p = document.createElement('p');
    p.textContent = line;
    return p;
  }));
}

function clearError() {
  if ($('trouble').contains(document.activeElement)) $('controls').focus();
  $('error').replaceChildren();
  $('trouble').hidden = true;
}

// ---- Asking the server -----------------------------------------------------------------------------------------------

// One request. Resolves to `{ok, status, body}` for every answer in JSON; throws where there was none.
async function ask(path, signal, timeoutMs, init) {
  const abort = new AbortController();
  const stop = () => abort.abort();
  const timer = setTimeout(stop, timeoutMs);
  signal?.addEventListener('abort', stop);
  if (signal?.aborted) stop();
  try {
    const response = await fetch(path, { cache: 'no-store', ...init, signal: abort.signal });
    const body = await response.json();
    if (response.ok) heard = Date.now();
    if (response.status === 401) locked = true;
    const date = Date.parse(response.headers.get('Date'));
    // The header counts whole seconds, so a smaller difference is none.
    const off = date + 500 - Date.now();
    if (date) skew = Math.abs(off) < 2000 ? 0 : off;
    return { ok: response.ok, status: response.status, body };
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', stop);
  }
}

// Runs `step` for ever: it gets an abort signal and resolves to the pause before the next in ms. `kick` ends the request under
// way or the pause and begins the next step at once. Nothing runs while the page is hidden.
function loop(step) {
  let abort, wake, kicked;
  (async () => {
    for (;;) {
      kicked = false;
      abort = new AbortController();
      const pause = document.hidden ? Infinity : await step(abort.signal);
      if (!kicked && pause > 0) {
        await new Promise((resolve) => {
          wake = resolve;
          if (pause < Infinity) setTimeout(resolve, pause);
        });
      }
    }
  })();
  return () => { kicked = true; abort.abort(); wake?.(); };
}

async function followState(signal) {
  await entry;
  const began = performance.now();
  const wait = pipeline?.pending || asked.size ? WAIT_PENDING_S : WAIT_S;
  // After a lost connection the server may be another one with lower versions: begin without ours.
  const known = connected && !doubt && !feed.isStreaming() ? pipeline.version : null;
  doubt = false;
  isAsked = known === null;
  let answer;
  refusal = '';
  try {
    answer = known === null ? await ask('api/pipeline', signal, ANSWER_MS)
      : await ask(`api/pipeline?after=${known}&wait=${wait}`, signal, ANSWER_MS + wait * 1000);
    if (!answer.ok) refusal = answer.body.detail || `it answered ${answer.status}`;
  } catch {
    answer = null;
  }
  isAsked = false;
  if (!answer?.ok) {
    // Told to begin again, or hidden: no fault of the server. The request's own timeout does not abort this signal.
    if (signal.aborted) return 0;
    connected = false;
    const pause = Math.min(BACKOFF_MS[0] * 2 ** failures++, BACKOFF_MS[1]);
    show();
    // A log-in begins again, here or in another tab that is left for this one.
    return answer?.status === 401 ? Infinity : pause;
  }
  if (!connected) learn().then(show);
  const wasConnected = connected;
  const before = pipeline;
  pipeline = answer.body.pipeline;
  if (before?.run_id === pipeline.run_id) pipeline.progress = later(before.progress, pipeline.progress);
  connected = true;
  locked = false;
  failures = 0;
  if (began >= clicked) settled = true;
  show();
  if (!wasConnected) kickLog();
  const { streaming, busy } = feed.watch();
  if (streaming && doubt) return 0;
  if (streaming) return busy || pipeline.pending || asked.size ? WAIT_PENDING_S * 1000 : WAIT_S * 1000;
  // A server that does not wait must not be asked a thousand times a second.
  return pipeline.version === known && performance.now() - began < 200 ? 1000 : 0;
}

async function act(action) {
  const kill = action === 'stop' && pipeline.pending === 'stop';
  const kind = kill ? 'kill' : action;
  asked.add(kind);
  clicked = performance.now();
  settled = false;
  clearError();
  showButtons();
  refresh();
  setTimeout(() => pipeline && showButtons(), SETTLE_MS + 20);
  try {
    const { ok, status, body } = await ask(`api/pipeline/${action}`, null, ACT_MS, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: kill ? '{"grace_s":0}' : '{}',
    });
    if (!ok) showError(kind, { error: body.error, detail: body.detail || `the server answered ${status}` });
  } catch {
    showError(kind, { error: 'lost', detail: 'the connection broke before the server answered' });
  }
  asked.delete(kind);
  refresh();
}

// Asks for the state now, without waiting for a change.
function refresh() {
  doubt = true;
  kickState();
}

// The same, when the stream tells of a change. Of many in a row each would end the question that the one before it led to.
function hint() {
  doubt = true;
  if (!isAsked) kickState();
}

// ---- Wiring ----------------------------------------------------------------------------------------------------------

for (const action of ACTIONS) $(action).addEventListener('click', () => act(action));

$('dismiss').addEventListener('click', clearError);

document.addEventListener('visibilitychange', () => {
  if (!document.hidden && Date.now() - hidden > HIDDEN_MS) connected = false;
  hidden = document.hidden ? Date.now() : null;
  if (pipeline) show();
  refresh();
  kickLog();
});

addEventListener('online', refresh);

setInterval(() => {
  if (!pipeline || document.hidden) return;
  showTimes();
  if (connected) tick(Date.now() + skew);
}, 1000);

const feed = makeFeed({
  ask, refresh, hint, isConnected: () => connected,
  showProgress({ run_id, progress }) {
    if (pipeline?.run_id !== run_id) return;
    pipeline.progress = later(pipeline.progress, progress);
    showProgress(run_id, pipeline.progress, pipeline, Date.now() + skew, ask);
  },
});
attach({ ...searchHooks, earlier: feed.earlier, atEnd: () => { if (feed.isResting()) kickLog(); } });

const entry = enterByLink(refresh);
const kickState = loop(followState);
const kickLog = loop(feed.follow);
