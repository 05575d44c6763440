// Elements: finding, making, changing and labelling them. Text from outside is inserted as text only, and an element is touched only if something
// changes.

import { HUES, T, visible } from './words.js';

export const $ = (id) => document.getElementById(id);

// Makes an HTML or SVG element. `props` is its class, or an object of properties; names with a hyphen, `role` and `class` are set as attributes.
// Children that are false or empty are left out.
export function el(tag, props = '', ...children) {
  const isDrawn = /^(svg|use|path)$/.test(tag);
  const element = document.createElementNS(`http://www.w3.org/${isDrawn ? '2000/svg' : '1999/xhtml'}`, tag);
  for (const [name, value] of Object.entries(typeof props === 'string' ? { class: props } : props)) {
    if (isDrawn || /-|^(role|class)$/.test(name)) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.flat().filter(Boolean).map((child) => (typeof child === 'string' ? visible(child) : child)));
  return element;
}

export const icon = (name) => el('svg', { class: 'i', 'aria-hidden': true }, el('use', { href: `#i-${name}` }));

// Sets an element's text without escaping it.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Sets an element's text to a name, or to a sentence with names, in a form that is safe to show.
export function set(element, text) {
  setText(element, visible(text));
}

const hues = new Set(Object.values(HUES));

// Gives an element the colour of a tone.
export function tint(element, tone) {
  for (const hue of hues) element.classList.toggle(hue, hue === HUES[tone]);
}

// Shows the icon of this name. With `words`, screen readers read the icon out too, for places where nothing else gives its meaning.
export function useIcon(svg, name, words) {
  const use = svg.firstElementChild;
  if (use.getAttribute('href') !== `#i-${name}`) use.setAttribute('href', `#i-${name}`);
  if (!words || svg.ariaLabel === words) return;
  svg.ariaLabel = words;
  svg.role = 'img';
  svg.ariaHidden = null;
}

// Gives `list` one child for each of `items`. Existing children are changed in place, so that the selection and the focus stay.
export function each(list, items, make, show) {
  while (list.children.length > items.length) list.lastChild.remove();
  items.forEach((item, n) => show(list.children[n] ?? list.appendChild(make()), item, n));
}

// Fills in the texts and icons of the page that never change.
export function label() {
  const all = (name) => [...document.querySelectorAll(`[data-${name}]`)].map((element) => [element, element.dataset[name]]);
  for (const [element, name] of all('text')) element.append(T[name]);
  for (const [element, name] of all('hint')) element.placeholder = T[name];
  for (const [element, name] of all('icon')) element.prepend(icon(name));
  for (const [element, name] of all('label')) {
    element.ariaLabel = T[name];
    if (element.classList.contains('ib')) element.title = T[name];
  }
}
