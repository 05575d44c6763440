// The texts of the page, and the rules that choose one: the state of the pipeline, how a run ended, times and durations, and what to do after an
// error. Pure functions that turn values into texts.
//
// `look` returns the word, the tone (a colour, and an icon of that name) and the detail, for the page, its title and its icon alike. Green
// means success and nothing else.

// The constant texts. index.html names them: `data-text` is content, `data-label` an accessible name, `data-hint` a placeholder.
export const T = {
  pause: 'Pause', resume: 'Resume', stopAsk: 'Stop…', longer: 'Give it 30 s more', hide: 'Hide', unhide: 'Show countdown', killAsk: 'Kill now…',
  killNow: 'Kill now',
  cancel: 'Cancel', dismiss: 'Dismiss', notices: 'Notices', menu: 'Menu', controls: 'Controls', conditions: 'Problems',
  lasting: 'Link to this run', progress: 'Progress', runs: 'Runs', run: 'Run',
  log: 'Log', steps: 'Steps', usage: 'Usage', details: 'Details', moreTab: 'More', all: 'All', failed: 'Failed',
  filterRuns: 'Filter the runs', findRuns: 'Script, argument or error', choose: 'Choose a script', cpu: 'CPU', memory: 'Memory',
  folder: 'Folder', server: 'Server', access: 'Access', keys: 'Keyboard shortcuts', pair: 'Pair a phone…', logIn: 'Log in', logOut: 'Log out',
  stopping: 'Stopping',
  loginTitle: 'This server needs a token.', loginHint: 'Paste it here, or run autoappdev\u00a0pair on the server’s machine and scan the code.',
  graceLabel: 'Time to save its work', newRun: 'New run…', start: 'Start', startThe: (script) => `Start ${script.split('/').pop()}`,
  runAgain: 'Run again', repeat: (id) => `Run ${id} again`,
  editAndRun: 'Edit and run…', live: 'live', polling: 'updating', retrying: 'retrying', readOnly: 'Read-only access',
  fullAccess: 'With full control', loggedIn: 'Logged in, with full control', noRuns: 'No run matches.',
  asked: 'Asking the server.',
  runName: (id) => `Run ${id}`,
  lastRuns: (count) => `The last ${count} runs; a bar’s height is the duration`,
  showIt: (id) => `Show run ${id}`, close: 'Close', notify: 'Notify me when a run ends', notifying: 'Stop notifying me',
  notGranted: 'Notices are blocked in this browser',
  serverAsks: 'The server needs a token.', noConnection: 'No connection to the server.', gone: 'That run is no longer in the history.',
  elsewhere: (shown, latest, word) => `This is run ${shown}. The latest, run ${latest}: ${lowered(word)}.`,
  stopTitle: (name) => `Stop ${name}?`, killTitle: (name) => `Kill ${name} now?`,
  stopText: (time) => (time === 0 ? 'It is killed at once, without a chance to save its work.'
    : `It gets SIGTERM and ${time === null ? 'its own time' : span(time)} to save its work. Then it is killed.`),
  killText: 'All its processes end at once (SIGKILL), without a chance to save anything.', stop: 'Stop',
  hasEnded: 'It has already ended.', isStopping: 'It is already being stopped.', stoppingTitle: (name) => `Stopping ${name}`,
  sinceThen: (at) => `SIGTERM was sent. It may still be saving; what is left at ${at} is killed.`,
  sinceUnknown: 'SIGTERM was sent. It may still be saving.', ownGrace: 'its own',
  dial: (s) => (s < 60 ? `${Math.round(s)} s` : `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, '0')}`),
  left: (ms) => `about ${since(ms)} left`,
  noPercent: 'Not reported', longerThanUsual: (ms) => `longer than the usual ${since(ms)}`,
  startedAt: (at) => `Started ${at}`,
  endedAt: (at) => `ended ${at}`, asOf: (at) => `as of ${at}`, sinceAt: (at) => `since ${at}`, stepOf: (n, name) => `step ${n}, ${name}`,
  since: (at) => `Since ${at}.`,
  noContact(at, state) {
    const run = state === 'stopped' ? '' : `If only the server is down, the run ${state === 'paused' ? 'stays paused' : 'goes on'}. `;
    return `No answer since ${at}; trying again. ${run}This page shows the state of ${at}.`;
  },
  refused: (why) => `The server can’t report the state: ${why}; trying again.`, never: 'No answer from the server; trying again.',
};

// ---- Times and durations -----------------------------------------------------------------------------------------------

const format = (options) => new Intl.DateTimeFormat(undefined, options);
const clockFormat = format({ hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const minuteFormat = format({ hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const dayFormat = format({ day: 'numeric', month: 'short', year: 'numeric' });
const weekdayFormat = format({ weekday: 'long', day: 'numeric', month: 'long' });
const yearFormat = format({ day: 'numeric', month: 'long', year: 'numeric' });

export const clock = (ms) => clockFormat.format(ms);
export const minute = (ms) => minuteFormat.format(ms);

// Returns a time as local time of this device, with the day if that is not today.
export function localTime(ms, now) {
  const [day, today] = [dayFormat.format(ms), dayFormat.format(now)];
  return (day === today ? '' : day + ', ') + clock(ms);
}

const daysAgo = (ms, now) => Math.round((new Date(now).setHours(12, 0, 0, 0) - new Date(ms).setHours(12, 0, 0, 0)) / 864e5);

// Returns the day of a time, as a heading.
export function dayOf(ms, now) {
  const days = daysAgo(ms, now);
  if (days === 0) return 'Today';
  if (days === 1) return 'Yesterday';
  return (days > 0 && days < 200 ? weekdayFormat : yearFormat).format(ms);
}

// Returns a day and a time for use in a sentence.
export const when = (ms, now) => `${dayOf(ms, now).replace(/^[TY](?=oday|esterday)/, (c) => c.toLowerCase())} ${minute(ms)}`;

// Makes a name, or a sentence containing names, safe to display. Control characters, and characters that would change the reading
// direction of the surrounding text, are shown as escapes, as on the command line.
export function visible(text) {
  return text.replace(/[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g,
    (c) => ({ '\n': '\\n', '\r': '\\r', '\t': '\\t' })[c] ?? `\\u{${c.charCodeAt(0).toString(16)}}`);
}

// Durations have the two largest units, rounded, as on the command line.
const rounded = (ms, unit) => Math.floor((ms + unit / 2) / unit);

// Returns how long something took, with tenths of a second below ten seconds.
export function took(ms) {
  const tenths = rounded(ms, 100);
  return tenths < 100 ? `${(tenths / 10).toFixed(1)} s` : since(ms);
}

// Returns how long something has lasted, or how long ago it was, in whole seconds, because the value is outdated at once.
export function since(ms) {
  const [seconds, minutes, hours] = [rounded(ms, 1000), rounded(ms, 60e3), rounded(ms, 3600e3)];
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

// Formats a number of seconds that was chosen, and is therefore mostly round.
export const span = (s) => since(s * 1000).replace(/ 0 \w+$/, '');

// Formats a number of bytes, in powers of 1000.
export function bytes(count) {
  const power = Math.min(4, Math.floor(Math.log10(Math.max(1, count)) / 3));
  const number = count / 1000 ** power;
  return `${number.toFixed(number < 10 && power ? 1 : 0)}\u00a0${['bytes', 'kB', 'MB', 'GB', 'TB'][power]}`;
}

// Keeps a text on one line.
const solid = (text) => text.replaceAll(' ', '\u00a0');
const lowered = (word) => word.charAt(0).toLowerCase() + word.slice(1);
const joined = (...parts) => parts.filter(Boolean).join(' · ');
const commas = (...parts) => parts.filter(Boolean).join(', ');

// Adds a full stop. The first letter stays unchanged, because the text may begin with a name.
export const stop = (text) => text + (/[.!?…]$/.test(text) ? '' : '.');

// Adds a full stop and a capital, unless the text begins with a file name.
export const sentence = (text) => stop(text.replace(/^[a-z](?=[a-z]*[ ,:;])/, (letter) => letter.toUpperCase()));

// Quotes a word as a shell would read it.
const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
export const shellWords = (words) => words.map(quoted).join(' ');
export const command = (script, args) => shellWords([script, ...args]);

// ---- States and outcomes -------------------------------------------------------------------------------------------------

const GLYPHS = {
  idle: '○', running: '▶', waiting: '◷', asking: '?', paused: '⏸', stopping: '◼', succeeded: '✓', failed: '✕', stopped: '◼',
  killed: '⚡', unstarted: '!', lost: '?', doubt: '?', disconnected: '⌁',
};
// The colour of each tone.
export const HUES = { idle: 'idle', running: 'run', waiting: 'run', asking: 'hold', paused: 'hold', stopping: 'hold', succeeded: 'ok', failed: 'fail',
  stopped: 'idle', killed: 'fail', unstarted: 'fail', lost: 'lost', doubt: 'hold', disconnected: 'idle' };

// Says who requested an action, from an origin of the API.
function byWhom(origin) {
  switch (origin?.by) {
    case 'client': return 'by you';
    case 'shutdown': return 'by the server’s shutdown';
    case 'signal': return 'by a signal to its shim';
    case 'schedule': return 'by the schedule';
    case 'restart': return 'by the restart rule';
    case 'autostart': return 'by the start of the server';
    case 'limit': return 'by a limit';
    case 'fleet': return 'by the fleet';
    case 'pipeline': return 'by the run itself';
    default: return '';
  }
}

// Says the same, with the client's address.
export function fromWhere(origin) {
  if (origin?.address && !/^(127\.|::1$)/.test(origin.address)) return `${byWhom(origin)}, from ${origin.address}`;
  return byWhom(origin);
}

// Whether a run ended because memory ran out, as far as its end and the number of its processes that were killed for this reason show. The
// kernel does that with SIGKILL. A script whose child was killed can end with any exit code. A stopped run did not end for this reason.
const lackedMemory = ({ kind, signal }, oom) => oom > 0 && (kind === 'killed' ? signal === 9 : kind === 'failed' && signal === null);

// Describes how a run ended: `word`, `tone`, `how` in short, and `sign` for the title. `outcome` is the API's, and `oom` is the number of its
// processes that were killed because memory ran out.
export function ending(outcome, oom) {
  const { kind, exit_code: code, signal_name: name, signal, by, forced } = outcome;
  const isLack = kind === 'killed' && lackedMemory(outcome, oom);
  const sign = isLack ? 'out of memory' : name ?? (signal === null ? null : `signal ${signal}`);
  switch (kind) {
    case 'completed': return { word: 'Succeeded', tone: 'succeeded', how: '' };
    case 'failed': return { word: 'Failed', tone: 'failed', how: code === null ? sign : `exit ${code}`, sign: code ?? sign };
    case 'killed': return { word: 'Killed', tone: 'killed', how: isLack ? sign : `${sign}, not by you`, sign };
    case 'stopped': return { word: 'Stopped', tone: 'stopped', how: commas(byWhom(by), forced && 'then killed') };
    case 'not_started': return { word: 'Couldn’t start', tone: 'unstarted', how: '' };
    case 'lost': return { word: 'Lost', tone: 'lost', how: '' };
    default: return { word: kind, tone: 'doubt', how: '' };
  }
}

// Describes a run for a row of the history: `tone`, `word`, and a `note` beside the name.
export function row(run) {
  if (run.outcome) {
    const { tone, how, word } = ending(run.outcome, run.oom_kills);
    return { tone, word, note: { lost: 'lost', unstarted: 'couldn’t start' }[tone] ?? how.replace(/(^by you)?(, (not by you|then killed))?$/, '') };
  }
  if (run.status === 'paused') return { tone: 'paused', word: 'Paused', note: '' };
  return { tone: 'running', word: run.status === 'starting' ? 'Starting' : 'Running', note: '' };
}

// Returns the word for a step's state or result, by its tone.
export const stepWord = (tone) => ({ succeeded: 'done', unstarted: 'failed', doubt: 'not recorded', asking: 'needs you' })[tone] ?? tone;

// Describes the last known state, whether or not it is current.
function known(p, now) {
  switch (p.pending) {
    case 'start': return { word: 'Starting', tone: 'running' };
    case 'pause': return { word: 'Pausing', tone: 'paused' };
    case 'resume': return { word: 'Resuming', tone: 'running' };
    case 'stop': {
      const left = p.kill_at ? Math.max(0, Math.ceil((Date.parse(p.kill_at) - now) / 1000)) : null;
      return { word: 'Stopping', tone: 'stopping', left, how: left === null ? '' : left ? `${since(left * 1000)} left` : 'killing the rest' };
    }
    default:
  }
  if (p.waiting?.for === 'person') return { word: 'Needs you', tone: 'asking', how: p.waiting.reason };
  if (p.waiting) return { word: `Waiting until ${minute(Date.parse(p.waiting.until))}`, tone: 'waiting', how: p.waiting.reason };
  if (p.state === 'running') return { word: 'Running', tone: 'running', since: p.started_at };
  if (p.state === 'paused') return { word: 'Paused', tone: 'paused', since: p.paused_at };
  if (p.status === 'starting') return { word: 'Starting', tone: 'running' };
  return p.outcome ? ending(p.outcome, p.oom_kills) : { word: 'No runs yet', tone: 'idle' };
}

// Returns whether the recorded state is outdated.
export const isBehind = (p) => p.conditions?.some(({ code }) => code === 'not_recorded') ?? false;

// Describes the state `p` at the server's time `now`: `word`, `tone`, `detail`, and `left`, the seconds left of a stop's grace. If the server does
// not answer, `heard` is when it last did. `pause` is the event of the pause, if it is known.
export function look(p, now, heard = null, pause = null) {
  const state = known(p, now);
  const passed = state.since && solid(since(Math.max(0, now - Date.parse(state.since))));
  const was = lowered(state.word);
  if (heard !== null) return { ...state, word: 'Disconnected', tone: 'disconnected', left: null, detail: `last known: ${was}, ${minute(heard)}` };
  if (isBehind(p)) return { ...state, word: 'Not recorded', tone: 'doubt', left: null, detail: `last recorded: ${was}` };
  if (p.state === 'paused' && !p.pending) {
    const who = pause?.cause === 'outside' ? 'from outside' : byWhom(pause?.origin);
    return { ...state, detail: commas(who, passed) };
  }
  const lasted = p.state === 'stopped' && !p.pending && p.outcome?.took_ms != null && `after ${solid(took(p.outcome.took_ms))}`;
  return { ...state, detail: passed || [state.how, lasted].filter(Boolean).join(state.how?.includes(',') ? ', ' : ' ') };
}

// Describes what the server will do next without a request.
export function plan(next, now) {
  if (!next) return '';
  const at = Date.parse(next.at), left = at - now;
  const time = left < 3600e3 ? `in ${since(Math.max(0, left))}` : `at ${minute(at)}`;
  if (next.action === 'resume') return `Resumes ${time}`;
  return `${next.because === 'restart' ? 'Restarts' : 'Starts'} ${time}${next.attempt ? ` (attempt ${next.attempt})` : ''}`;
}

// Returns the title of the window, which must be readable among many tabs.
export function title({ word, tone, sign, detail }, p, host) {
  const name = (p.script ?? p.default_script)?.split('/').pop();
  const percent = word === 'Running' ? p.progress?.percent ?? null : null;
  if (percent !== null) return visible(joined(`${Math.floor(percent)}% ${name ?? ''}`, host));
  return visible(joined(`${GLYPHS[tone]} ${word}${sign == null ? '' : ` (${sign})`}`, tone === 'stopping' && detail, name, host));
}

// Estimates how long the run still takes, from its percent, or else from earlier runs of the same script. Returns a text, which may be empty.
// `active` is how long it has run without pauses, and `told` is the same at its last report of the percent.
export function timeLeft({ percent, active, told, usual }) {
  if (percent >= 100) return '';
  if (percent >= 1 && told >= 3000) return T.left(Math.max(0, told * (100 - percent) / percent - (active - told)));
  if (!usual || percent !== null) return '';
  return active < usual ? T.left(usual - active) : T.longerThanUsual(usual);
}

// ---- Errors --------------------------------------------------------------------------------------------------------------

// Advice on what to do next, by the API's stable error code.
export const HINTS = {
  invalid_transition: 'It had already changed. The state above is up to date.',
  run_changed: 'Another run has begun since. The state above is up to date.',
  not_repeatable: 'Choose “Edit and run…” and give the values that were not kept.',
  script_not_found: 'Put the script back, or start another one.',
  invalid_script: 'Choose another script, or correct this one.',
  script_outside_root: 'Move it into the root folder, or set AUTOAPPDEV_PIPELINE_CWD and restart the server.',
  spawn_failed: 'Check the script’s first line (#!…) and its execute bit.',
  still_under_way: 'It is still under way. Watch the state above.',
  too_many_waiting: 'It is still under way. Watch the state above.',
  pause_timeout: 'The pause was undone. Try again in a moment.',
  resume_failed: 'Press Resume again, or Stop.',
  storage_failed: 'Check the disk and the server’s log, backend.log.',
  disk_full: 'Free some space on the server’s disk.',
  unauthorized: 'Log in above, then try again.',
  read_only: 'Log in with the operator token or its link.',
  other_server: 'Nothing was done.',
  lost: 'It may have been done. The state above will tell once the server answers.',
};
export const NO_HINT = 'The server’s log, backend.log, may say more.';
export const didNotWork = (action) => (action === 'longer' ? 'The stop was not postponed.' : `The ${action} did not work.`);
export const BROKE = 'the connection broke before the server answered';
export const ANSWERED = (status) => `the server answered ${status}`;

// ---- The log ---------------------------------------------------------------------------------------------------------------

const counted = (count, what) => `${count.toLocaleString()} ${what}${count === 1 ? '' : 's'}`;

export const LOG = {
  earlier: 'Earlier lines', later: 'Later lines', noneYet: 'No output yet.',
  buffered: 'No output yet. Python may hold it back; PYTHONUNBUFFERED=1 in the environment prevents that.',
  none: 'No output.', latest: 'Jump to the end',
  linesWait: 'New lines',
  newLines: (count) => counted(count, 'new line'), marks: (count) => counted(count, 'error'),
  missing: (count) => `${bytes(count)} no longer kept`, someMissing: 'Some lines are no longer kept', run: (id) => `run ${id}`,
  full: (count) => `This page shows ${count.toLocaleString()} lines at most; the download has them all.`,
  tools: {
    follow: 'Follow the end (f)', times: 'Times (t)', wrap: 'Wrap long lines (w)', full: 'Full screen, until Escape', get: 'Download the log',
  },
  nextError: 'Next line that looks like an error (e)', copyLink: 'copy link',
  downloads: ['Download with times', 'Download as plain text', 'Download stdout', 'Download stderr'],
  // Describes how long the last step of a run has lasted.
  lasted(tone, time, isAlive) {
    if (isAlive) return `${time} so far`;
    return tone === 'lost' ? tone : /failed|stopped|killed/.test(tone) ? `${tone} after ${time}` : time;
  },
};

// ---- The search in the log -------------------------------------------------------------------------------------------------

export const FIND = {
  labels: {
    finder: 'Search', find: 'Search this run', 'find-regex': 'Regular expression', 'find-case': 'Match case', 'find-previous': 'Previous match',
    'find-next': 'Next match', stream: 'Which output to show', 'find-open': 'Search this run, and tools',
  },
  streams: { '': 'All output', stdout: 'stdout', stderr: 'stderr' },
  count: (shown, isMore) => (isMore ? `${shown.toLocaleString()} lines…` : counted(shown, 'line')),
  place: (place, count, isMore) => `${place.toLocaleString()} of ${count.toLocaleString()}${isMore ? '…' : ''}`,
  loadedOnly: (count) => `${count} · earlier ones not loaded`, at: (place, text) => `${place}: ${text}`,
  unreadable: (why) => `The log can’t be read now (${why}); trying again.`, logGone: 'The log of this run is no longer kept.',
  begins: 'The log begins here.', beginsBehind: (size) => `The log begins here; ${size} before are no longer kept.`,
};

// ---- The form of a start, and the first visit ------------------------------------------------------------------------------

export const START = {
  newRun: 'New run', edit: 'Edit and run', from: (id) => `filled in from run ${id}`,
  starting: 'Starting…', scripts: 'Scripts', findScripts: (root) => (root ? `Find a script in ${root}` : 'Find a script'),
  reading: 'Looking for scripts…',
  noScripts: (root) => `No scripts found in ${root}`, noMatch: 'No script has this in its name.', noList: 'The scripts could not be listed.',
  whatIsOne: 'Listed are executable files, files with a first line such as #!/usr/bin/env python3, and names that end with .sh.',
  cut: (count) => `Only ${count.toLocaleString()} are listed. Type a part of a name to find others.`,
  tryAgain: 'Try again', use: (path) => `Use “${path}”`, notListed: (problem) => (problem ? '' : 'not in the list'),
  chooseOne: 'Choose a script.',
  times: (count) => (count === 1 ? 'once' : `${count.toLocaleString()} times`),
  ran: (runs, usual) => (runs ? `ran ${START.times(runs)}${usual === null ? '' : `, usually ${solid(took(usual))}`}` : 'never run'),
  lastTime: (word) => ` · ${lowered(word)} last time`,
  args: 'Arguments', argsHint: 'Split as by a shell: quotes and backslashes work; $NAME and * stay as they are.',
  argList: 'The arguments, one by one',
  unclosed: (quote) => `The quote ${quote} is not closed.`, loneBackslash: 'Nothing follows the backslash at the end.',
  env: 'Environment', envName: 'NAME', envValue: 'value',
  valueOf: (name) => `Value of ${name || 'the new variable'}`, remove: (name) => `Remove ${name}`,
  show: 'Show', notKept: 'not kept; give it again', noName: 'This value has no name.', twice: (name) => `${name} is given twice.`,
  notGiven: (name) => `The value of ${name} was not kept. Give it again, or remove the variable.`,
  oneLine: 'This field takes one line. For several lines, use the command line: --env NAME takes the value from your shell.',
  cwd: 'Folder', grace: 'Time to stop, in seconds', graceHint: (s) => (s === null ? 'the server’s default' : `${s}, the server’s default`),
  grace_s: 'It',
  noNumber: 'Enter a number of seconds, or nothing.',
  busy: (id, what) => `Run ${id} is ${what}; ${what === 'stopping' ? 'wait for its end' : 'stop it first'}.`,
  noStart: 'A start is not possible at the moment.',
  noChoices: (id) => `What run ${id} was started with could not be read.`, copy: 'Copy', copied: 'Copied', notCopied: 'Could not copy',
  theseAreIn: 'These are in {}. A run goes on when you close this page.', withArgs: 'Start with arguments…',
  more: (count, isCut) => `${count.toLocaleString()}${isCut ? ' or' : ''} more scripts…`, elsewhere: 'From a terminal, or from another machine',
  noRuns: 'No runs yet',
  youLook: 'When a run starts, its log appears here. This access is read-only.',
  example: 'An example that reports steps and progress:', saveIt: (path) => `Save it as ${path}, then press “${START.tryAgain}”.`,
  script: '#!/bin/bash\necho "::step count to ten"\nfor n in {1..10}; do echo "::progress $((n * 10)) $n of 10"; sleep 1; done\n',
  // Returns a day in few characters, because there is little space beside a script.
  day(ms, now) {
    const days = daysAgo(ms, now);
    if (days === 0) return `today ${minute(ms)}`;
    if (days === 1) return 'yesterday';
    return (days > 0 && days < 7 ? shortWeekday : days > 0 && days < 200 ? shortDay : dayFormat).format(ms);
  },
};
const shortWeekday = format({ weekday: 'long' });
const shortDay = format({ day: 'numeric', month: 'long' });

// ---- Pairing a phone -----------------------------------------------------------------------------------------------------------

export const PAIR = {
  title: 'Pair a phone', may: ['May act', 'Read-only'],
  works: (ms) => `Works once, within ${since(ms)}.`, used: 'The link was used: a browser has logged in.',
  expired: 'The link has expired.',
  none: 'This server listens on this machine only. This starts it for its network: AUTOAPPDEV_HOST=0.0.0.0 autoappdev serve',
};

// ---- Steps and usage over time -----------------------------------------------------------------------------------------------

export const TIME = {
  running: 'running', paused: 'paused', active: (ms) => `${since(ms)} active`, pausedFor: (ms) => `${since(ms)} paused`, same: 'same as last time',
  than: (ms) => `${took(Math.abs(ms))} ${ms > 0 ? 'longer' : 'shorter'} than last time`,
  earlier: (count) => `${counted(count, 'earlier step')} not listed`,
  percent: (value) => `${Math.round(value)}\u00a0%`,
  noSteps: 'This run reported no steps. A line such as “::step build” in its output begins one.', noUsage: 'No usage was recorded.',
  whyNoUsage: 'The run ended within seconds, or AUTOAPPDEV_USAGE_S is 0.', now: (value) => `now ${value}`,
  mean: (value) => `mean ${value}`,
  peak: (value) => `peak ${value}`, ofCores: (count) => `of\u00a0${count * 100}\u00a0%`, ofMemory: (value) => `of\u00a0${value}`,
  processes: (count) => `${count}\u00a0process${count === 1 ? '' : 'es'}`,
  oom: (count) => `${count} process${count === 1 ? ' was' : 'es were'} killed because memory ran out.`,
  noLine: 'The line of this step is no longer in the log.',
  chart: (name, words) => `${name} over time: ${words}`,
  at: (time, cpu, memory, count) => `${time}: CPU ${cpu}, memory ${memory}, ${TIME.processes(count)}`, loading: 'Loading…',
};

// ---- The details of a run, and the help ---------------------------------------------------------------------------------------

export const DETAILS = {
  command: 'Command', copyLink: 'Copy link', copyCli: 'Copy as CLI', copyCurl: 'Copy as curl', process: 'Process',
  pid: 'Process', startedBy: 'Started by', started: 'Started', ended: 'Ended', active: 'Active', cpuTime: 'CPU time',
  exit: 'Exit', grace: 'Time to stop', error: 'Error', environment: 'Environment', hidden: 'not shown', notKept: 'not kept',
  happened: 'Events', unknown: 'unknown',
  paused: (ms) => `paused ${since(ms)}`, soFar: (ms) => `${since(ms)} so far`, user: (ms) => `${took(ms)} in user mode`,
  system: (ms) => `${took(ms)} in the kernel`,
  pidOf: (pid, containment) => `${pid}, ${containment === 'cgroup' ? 'in its own control group' : 'with its descendants'}`,
  peak: (count) => `peak ${bytes(count)}`, oom: (count) => `${count} killed, out of memory`,
  serversGrace: 'the server’s default',
  exitCode: (code) => `code ${code}`, noEnv: 'No variables were added.',
  help: [['/', 'Search this run'], ['n N', 'Next, previous match'], ['g G', 'Beginning, end of the log'], ['f', 'Follow the end'],
    ['t', 'Times on or off'], ['w', 'Wrap long lines'], ['e E', 'Next, previous error'], ['p', 'Pause or resume'], ['?', 'This list'],
    ['Esc', 'Close']],
};

// ---- The card of a run that has ended -----------------------------------------------------------------------------------------------

export const CARD = { jump: 'Jump to the first error', lastLines: 'The last lines that look like errors' };

// Returns the text of the card: a heading, and a sentence below it.
export function verdict(run, progress, now) {
  const { outcome, oom_kills: oom, previous } = run;
  const { word, how, tone } = ending(outcome);
  const lasted = outcome.took_ms === null ? '' : ` after ${took(outcome.took_ms)}`;
  const steps = progress?.steps ?? [], before = progress?.steps_before ?? 0;
  const where = steps.length && tone !== 'succeeded' ? `, in step ${before + steps.length}, ${steps.at(-1).name}` : '';
  const heading = lackedMemory(outcome, oom) ? `Out of memory${lasted}${where}`
    : tone === 'failed' && outcome.exit_code !== null ? `Exit code ${outcome.exit_code}${lasted}${where}`
    : `${word}${how ? ` ${tone === 'stopped' ? '' : '· '}${how}` : ''}${how.includes(',') ? ',' : ''}${lasted}${tone === 'succeeded' ? '' : where}`;
  const same = previous && tone !== 'succeeded' ? `The same script succeeded in ${took(previous.active_ms)} (run ${previous.id}).` : '';
  const error = run.error && (tone === 'lost' ? sentence : stop)(run.error);
  const ended = run.stopped_at && `Ended ${when(Date.parse(run.stopped_at), now)}.`;
  return [heading, [error, same, ended].filter(Boolean).join(' ')];
}

// Describes an event of the history, by its kind: a word, an icon and the rest of the sentence.
export function happening(event) {
  const { kind, exit_code: code, grace_ms: grace, paused_ms: paused, killed = [], killed_count: count, detail } = event;
  const who = fromWhere(event.origin);
  const byWhat = event.cause === 'outside' ? 'by a signal from outside' : who;
  const end = code === null ? event.signal_name ?? `signal ${event.signal}` : `exit code ${code}`;
  const dead = commas(...killed.map(({ pid, name }) => `${name || '?'} (${pid})`));
  const also = count ? `; killed: ${dead}${count > killed.length ? ` and ${count - killed.length} more` : ''}` : '';
  switch (kind) {
    case 'starting': return ['Requested', 'waiting', who];
    case 'spawned': return ['Started', 'running', who];
    case 'paused': return ['Paused', 'paused', byWhat];
    case 'resumed': return ['Resumed', 'running', commas(byWhat, paused && `paused for ${since(paused)} in all`)];
    case 'stopping': return ['Stopping', 'stopping', commas(who, grace === 0 ? 'at once' : grace && `with ${span(grace / 1000)} to save its work`)];
    case 'exited': return ['Ended', code === 0 ? 'succeeded' : 'stopped', commas(end, who) + also];
    case 'spawn_failed': return ['Couldn’t start', 'unstarted', detail ?? ''];
    case 'lost': return ['Lost', 'lost', (detail ?? '') + also];
    case 'usage': return ['Usage counted', 'idle', detail ?? ''];
    default: return [kind, 'idle', detail ?? ''];
  }
}
