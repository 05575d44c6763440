// The words that users see: the state of the pipeline or the end of its latest run, times, and what to do after an error. Pure: values in,
// texts out.
//
// `look` decides the word, the tone (a colour and an icon of that name) and the details, for the page, its title and its icon alike. Green
// means success and nothing else.

// Names of the signals that end processes, by number, as on Linux for x86 and Arm.
const SIGNALS = { 1: 'HUP', 2: 'INT', 3: 'QUIT', 4: 'ILL', 5: 'TRAP', 6: 'ABRT', 7: 'BUS', 8: 'FPE', 9: 'KILL', 10: 'USR1',
  11: 'SEGV', 12: 'USR2', 13: 'PIPE', 14: 'ALRM', 15: 'TERM', 16: 'STKFLT', 24: 'XCPU', 25: 'XFSZ', 26: 'VTALRM', 27: 'PROF',
  29: 'IO', 30: 'PWR', 31: 'SYS' };
// Signals that a process causes itself, by a fault or by exceeding a limit. Any other signal counts as an end from outside.
const OWN_SIGNALS = [4, 5, 6, 7, 8, 11, 13, 14, 24, 25, 26, 27, 31];

const GLYPHS = { idle: '○', running: '▶', paused: '⏸', stopping: '◼', succeeded: '✓', failed: '✕', stopped: '◼', killed: '⚡', lost: '?',
  doubt: '?', disconnected: '⌁' };

export const TONES = Object.keys(GLYPHS);

const clockFormat = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const dayFormat = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short', year: 'numeric' });

export const clock = (ms) => clockFormat.format(ms);

// A time as this device's local time, with the day if that is not today.
export function localTime(ms, now) {
  const [day, today] = [dayFormat.format(ms), dayFormat.format(now)];
  return (day === today ? '' : day + ', ') + clock(ms);
}

// Makes a name, or a sentence containing names, safe to display. Control characters, and characters that would change the reading
// direction of the surrounding text, are shown as escapes, as on the command line.
export function visible(text) {
  return text.replace(/[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g,
    (c) => ({ '\n': '\\n', '\r': '\\r', '\t': '\\t' })[c] ?? `\\u{${c.charCodeAt(0).toString(16)}}`);
}

// ---- Durations: the two largest units, rounded, as on the command line ------------------------------------------------------

const rounded = (ms, unit) => Math.floor((ms + unit / 2) / unit);

// How long something took, with tenths of a second below ten seconds.
export function took(ms) {
  const tenths = rounded(ms, 100);
  return tenths < 100 ? `${(tenths / 10).toFixed(1)} s` : since(ms);
}

// How long something has lasted, or how long ago it was, in whole seconds, because the value is outdated at once.
export function since(ms) {
  const [seconds, minutes, hours] = [rounded(ms, 1000), rounded(ms, 60e3), rounded(ms, 3600e3)];
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

// It is one word where lines are broken.
const solid = (text) => text.replaceAll(' ', '\u00a0');

export function ago(ms) {
  return ms < 4500 ? 'just now' : `${since(ms)} ago`;
}

// ---- The state -------------------------------------------------------------------------------------------------------

function signalName(number) {
  return SIGNALS[number] ? `SIG${SIGNALS[number]}` : `signal ${number}`;
}

// How a run ended: `word` and `tone`, `how` it ended, `short` for the title.
function outcome(p) {
  const { exit_code: code, signal, error } = p;
  switch (p.status) {
    case 'idle': return { word: 'No runs yet', tone: 'idle' };
    case 'completed': return { word: 'Succeeded', tone: 'succeeded' };
    case 'failed':
      if (code !== null) return { word: 'Failed', tone: 'failed', how: `exit code ${code}`, short: code };
      if (signal === null) return { word: 'Couldn’t start', tone: 'failed', how: error };
      if (OWN_SIGNALS.includes(signal)) return { word: 'Failed', tone: 'failed', how: signalName(signal), short: signalName(signal) };
      return { word: 'Killed', tone: 'killed', how: `${signalName(signal)}, not by a stop`, short: signalName(signal) };
    case 'stopped': {
      const how = signal !== null ? `ended by ${signalName(signal)}` : code === null ? '' : `exit code ${code}`;
      return { word: 'Stopped', tone: 'stopped', how: how && `on request, ${how}` };
    }
    case 'lost': return { word: 'Lost', tone: 'lost', how: error || 'how it ended is not known' };
    default: return { word: p.status, tone: 'doubt' };
  }
}

// The last known state, whether or not it is current.
function known(p, now) {
  switch (p.pending) {
    case 'start': return { word: 'Starting', tone: 'running' };
    case 'pause': return { word: 'Pausing', tone: 'paused' };
    case 'resume': return { word: 'Resuming', tone: 'running' };
    case 'stop': {
      const left = p.kill_at ? Math.ceil((Date.parse(p.kill_at) - now) / 1000) : null;
      return { word: 'Stopping', tone: 'stopping', left: left === null ? '' : left > 0 ? `${since(left * 1000)} left` : 'killing the rest' };
    }
    default:
  }
  if (p.state === 'running') return { word: 'Running', tone: 'running', for: p.started_at };
  if (p.state === 'paused') return { word: 'Paused', tone: 'paused', for: p.paused_at };
  if (p.status === 'starting') return { word: 'Starting', tone: 'running' };
  return outcome(p);
}

// Whether the recorded state is outdated.
export const isBehind = (p) => p.conditions?.some(({ code }) => code === 'not_recorded') ?? false;

// What to show of the state `p` at the server's time `now`: `word`, `tone`, `details` and `left` (of a stop's grace). `heard`, if
// the server does not answer, is when it last did.
export function look(p, now, heard = null) {
  const state = known(p, now);
  const run = p.run_id === null ? null : `run ${p.run_id}`;
  const passed = (at) => at && solid(since(Math.max(0, now - Date.parse(at))));
  const lasted = p.started_at && p.stopped_at && solid(took(Math.max(0, Date.parse(p.stopped_at) - Date.parse(p.started_at))));
  const list = (...parts) => parts.filter(Boolean).join(' · ');
  if (heard !== null) {
    const ended = p.state === 'stopped' && state.how;
    return { word: 'Disconnected', tone: 'disconnected', details: list(`last seen ${lower(state.word)} ${clock(heard)}`, run, ended) };
  }
  if (isBehind(p)) return { word: 'Not recorded', tone: 'doubt', details: list(`last recorded: ${lower(state.word)}`, run) };
  const live = state.for && `${p.state === 'paused' ? 'for ' : ''}${passed(state.for)}`;
  const ended = p.state === 'stopped' && !p.pending;
  return { ...state, details: list(live, run, state.how, ended && lasted && `after ${lasted}`, ended && p.stopped_at && solid(ago(Math.max(0, now - Date.parse(p.stopped_at))))) };
}

const lower = (word) => word.charAt(0).toLowerCase() + word.slice(1);

// The title of the window, to be readable among many tabs.
export function title({ word, tone, short, left }, p) {
  const name = (p.script ?? p.default_script)?.split('/').pop();
  const percent = tone === 'running' && word === 'Running' ? p.progress?.percent ?? null : null;
  const what = percent === null ? `${word}${short === undefined ? '' : ` (${short})`}` : `${percent} %`;
  return visible([`${GLYPHS[tone]} ${what}`, left, name, 'AutoAppDev'].filter(Boolean).join(' · '));
}

// ---- Errors ----------------------------------------------------------------------------------------------------------

// What to do next, by the API's stable error code.
export const HINTS = {
  invalid_transition: 'The pipeline had changed already, by itself or through another client. The state above is up to date.',
  script_not_found: 'Put the script back, or name another in AUTOAPPDEV_PIPELINE_SCRIPT and restart the server.',
  invalid_script: 'Name a script file in AUTOAPPDEV_PIPELINE_SCRIPT and restart the server.',
  script_outside_root: 'Move the script into the root folder (AUTOAPPDEV_PIPELINE_CWD), or set another root and restart the server.',
  spawn_failed: 'Check the script’s first line (#!…), its execute bit and the log, then press Start again.',
  still_under_way: 'The action may still be under way. Watch the state above before trying again.',
  too_many_waiting: 'The action is still under way. Watch the state above before trying again.',
  pause_timeout: 'The pause was undone. Try again in a moment: a process waiting for a disk or the network can’t be stopped.',
  resume_failed: 'Press Resume again, or Stop.',
  storage_failed: 'Check the disk and the server’s log, backend.log, then try again.',
  disk_full: 'Free some space on the server’s disk, then try again.',
  unauthorized: 'Log in above, then try again.',
  read_only: 'Log out, and log in with the other token or its link.',
  other_server: 'Nothing was done.',
  lost: 'The action may or may not have happened. The state above will tell as soon as the server answers.',
};

export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? '' : '.');
}
