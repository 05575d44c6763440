// What the form of a start and the page of the first visit share: their looks, elements, questions to the server, and copying. Text from
// outside is put in by textContent only.

import { ANSWERED, START as S, T, sentence, visible } from './words.js';

const ANSWER_MS = 10000;
const COPIED_MS = 1600;

// The looks are there before anything is shown.
const looks = Object.assign(document.createElement('link'), { rel: 'stylesheet', href: 'static/panes-start.css' });
await new Promise((resolve) => {
  looks.onload = looks.onerror = resolve;
  document.head.append(looks);
});

// Makes an element. Names with a hyphen, and `role`, are attributes; the others are properties.
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (/-|^role$/.test(name)) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

export function icon(name) {
  const [svg, use] = ['svg', 'use'].map((tag) => document.createElementNS('http://www.w3.org/2000/svg', tag));
  svg.setAttribute('class', 'i');
  svg.setAttribute('aria-hidden', 'true');
  use.setAttribute('href', `#i-${name}`);
  svg.append(use);
  return svg;
}

export const button = (className, words, ...children) => el('button', { type: 'button', className }, ...children, words);
export const iconButton = (name, words) => el('button', { type: 'button', className: 'ib', title: words, 'aria-label': words }, icon(name));
export const code = (text) => el('code', { dir: 'ltr' }, visible(text));

// ---- Copying --------------------------------------------------------------------------------------------------------------

// Copies `text` and says so beside `button` for a moment. Resolves to whether it was copied.
export async function copy(text, button) {
  const isCopied = await write(text, button);
  const box = button.getBoundingClientRect();
  const said = el('span', { className: 'said', role: 'status' });
  // In an open dialog, because what is outside of it is not seen, and not read out.
  (button.closest('dialog') ?? document.body).append(said);
  said.style.top = `${box.top > 44 ? box.top - 34 : box.bottom + 6}px`;
  said.style.left = `${Math.max(8, Math.min(innerWidth - 110, box.left + box.width / 2 - 36))}px`;
  // A status is read out only if its text comes after it.
  setTimeout(() => { said.textContent = isCopied ? S.copied : S.notCopied; }, 20);
  setTimeout(() => said.remove(), COPIED_MS);
  return isCopied;
}

async function write(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers have no clipboard for pages that came over plain HTTP from another machine. The older way copies a selection.
  }
  const focused = document.activeElement;
  const area = el('textarea', { className: 'vh', value: text, readOnly: true, tabIndex: -1 });
  button.parentNode.append(area);
  area.select();
  const isCopied = document.execCommand('copy');
  area.remove();
  focused?.focus({ preventScroll: true });
  return isCopied;
}

// A line with a command and its copy button. `text` is called when that is pressed.
export function copyLine(shown, text, prompt = '$') {
  const copier = iconButton('copy', S.copy);
  copier.addEventListener('click', () => copy(text(), copier));
  return el('div', { className: 'copyline', dir: 'ltr' }, el('span', { 'aria-hidden': 'true' }, prompt), shown, copier);
}

// ---- Asking ----------------------------------------------------------------------------------------------------------------

// What the server answered: a body, or a sentence in `problem`.
export async function get(ask, path) {
  try {
    const { ok, status, body } = await ask(path, null, ANSWER_MS);
    return ok ? body : { problem: sentence(body.detail || ANSWERED(status)) };
  } catch {
    return { problem: T.noConnection };
  }
}
