// Shared by the parts of the page: elements, buttons, copying, commands and requests to the server. Text from outside is inserted as text only.

import { onMeantClick } from './controls.js';
import { el, icon } from './dom.js';
import { ANSWER_MS } from './session.js';
import { ANSWERED, command, localTime, sentence, START, T } from './words.js';

// How long the result of a copy is shown.
const COPIED_MS = 1600;

export const button = (className, words, onclick, name) =>
  el('button', { type: 'button', className, onclick }, name && icon(name), el('span', '', words));
export const iconButton = (name, words, onclick) =>
  el('button', { type: 'button', className: 'ib', title: words, ariaLabel: words, onclick }, icon(name));
// The foot of a sheet, with its last button.
export const foot = (last) => el('div', 'foot', el('span', 'grow'), last);
export const code = (text) => el('code', { dir: 'ltr' }, text);
export const enumerated = (...words) => words.filter(Boolean).join(', ');
// A time in the words of `format`, with the full time as its title.
export const timeOf = (time, format, now) => {
  const at = Date.parse(time);
  return el('time', { dateTime: time, title: localTime(at, now) }, format(at, now));
};

// Returns whether Enter was pressed, unless it chose a word of an input method.
export const isEnter = ({ key, isComposing }) => key === 'Enter' && !isComposing;

// Makes a button that acts. Unintended presses are ignored.
export function acting(className, words, then, name) {
  const element = button(className, words, null, name);
  onMeantClick(element, then);
  return element;
}

// ---- Copying --------------------------------------------------------------------------------------------------------------

// Copies `text` and shows the result beside `button` for a moment.
export async function copy(text, button) {
  const isCopied = await writeClipboard(text, button);
  const { top, bottom, left, width } = button.getBoundingClientRect();
  const said = el('span', { className: 'said', role: 'status' });
  // In an open dialog, because anything outside of it is neither visible nor read out.
  (button.closest('dialog') ?? document.body).append(said);
  said.style.top = `${top > 44 ? top - 34 : bottom + 6}px`;
  said.style.left = `${Math.max(8, Math.min(innerWidth - 110, left + width / 2 - 36))}px`;
  // Screen readers read a status only if its text is set after the element was added.
  setTimeout(() => { said.textContent = isCopied ? START.copied : START.notCopied; }, 20);
  setTimeout(() => said.remove(), COPIED_MS);
}

async function writeClipboard(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers provide no clipboard to pages that came over plain HTTP from another machine. The older way copies a selection.
    const area = el('textarea', { className: 'vh', value: text });
    button.after(area);
    area.select();
    const isCopied = document.execCommand('copy');
    area.remove();
    button.focus();
    return isCopied;
  }
}

// Makes a line with a copy button. A command has a prompt, and `text` returns the text to copy, which may be unsafe to show.
export function copyLine(shown, text) {
  const copier = iconButton('copy', START.copy, () => copy(text?.() ?? shown.textContent, copier));
  return el('div', { className: 'copyline', dir: 'ltr' }, text && el('span', { 'aria-hidden': true }, '$'), shown, copier);
}

// ---- Commands ---------------------------------------------------------------------------------------------------------------

export const SECRET = /KEY|TOKEN|SECRET|PASS|PWD|CREDENTIAL/i;

// Returns the command that starts this. Secrets are not in it: the command takes them from its own environment.
export function cli({ script, args = [], cwd, env = {}, grace_s: grace }) {
  const option = (name, value) => (value.startsWith('-') ? [`${name}=${value}`] : [name, value]);
  return command('autoappdev', ['start', script.startsWith('-') ? `./${script}` : script, ...(cwd ? option('--cwd', cwd) : []),
    ...Object.entries(env).flatMap(([name, value]) => option('--env', SECRET.test(name) ? name : `${name}=${value}`)),
    ...(grace == null ? [] : ['--grace', `${grace}`]), ...(args.length ? ['--', ...args] : [])]);
}

// Returns the request that starts this from another machine. `curl --json` sends a POST.
export const curl = (start, ...options) =>
  command('curl', [...options, '--json', JSON.stringify(start), new URL('api/pipeline/start', location).href]);

// ---- Requests --------------------------------------------------------------------------------------------------------------

// Returns the server's response: a body, or a sentence in `problem`.
export async function get(ask, path, init) {
  try {
    const { ok, status, body } = await ask(path, null, ANSWER_MS, init);
    return ok ? body : { problem: sentence(body.detail || ANSWERED(status)) };
  } catch {
    return { problem: T.noConnection };
  }
}
