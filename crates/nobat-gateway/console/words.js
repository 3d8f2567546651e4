// The console's words: English in the pages, Persian in a table beside them, and numbers,
// times and sizes as each language writes them.

import { persian } from "./persian.js";
import { serverNow } from "./api.js";

export const LANGUAGES = { en: "English", fa: "فارسی" };
const LANGUAGE = "nobat-language";
const THEME = "nobat-theme";

export const choice = { language: stored(LANGUAGE, Object.keys(LANGUAGES), preferred()), theme: stored(THEME, ["light", "dark"], "") };
const listeners = new Set();

function stored(name, values, otherwise) {
  const value = localStorage.getItem(name);
  return values.includes(value) ? value : otherwise;
}

function preferred() {
  return (navigator.language || "").startsWith("fa") ? "fa" : "en";
}

export function apply() {
  const root = document.documentElement;
  root.lang = choice.language;
  root.dir = choice.language === "fa" ? "rtl" : "ltr";
  if (choice.theme) root.dataset.theme = choice.theme;
  else delete root.dataset.theme;
}

export function choose(values) {
  Object.assign(choice, values);
  if (values.language) localStorage.setItem(LANGUAGE, values.language);
  if (values.theme !== undefined) localStorage.setItem(THEME, values.theme);
  apply();
  listeners.forEach(listener => listener());
}

export function onChoice(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

// A text of the pages with its {names} filled in.
export function t(text, values = {}) {
  const words = choice.language === "fa" ? persian[text] ?? text : text;
  return words.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
}

const locale = () => (choice.language === "fa" ? "fa-IR" : "en-GB");

export function number(value, digits = 0) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (typeof value === "string") return value;
  return new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(value);
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) [value, at] = [value / 1024, at + 1];
  return `${number(value, value < 10 && at > 0 ? 1 : 0)} ${units[at]}`;
}

// A duration in the unit that fits it.
export function duration(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "–";
  if (ms < 1) return `${number(ms * 1000)} µs`;
  if (ms < 1000) return `${number(ms, ms < 10 ? 2 : ms < 100 ? 1 : 0)} ms`;
  const s = ms / 1000;
  if (s < 60) return `${number(s, 1)} ${t("s")}`;
  const whole = (size, unit) => `${number(Math.floor(size))} ${unit}`;
  if (s < 3600) return `${whole(s / 60, t("min"))} ${whole(s % 60, t("s"))}`;
  if (s < 86400) return `${whole(s / 3600, t("h"))} ${whole((s % 3600) / 60, t("min"))}`;
  return `${whole(s / 86400, t("d"))} ${whole((s % 86400) / 3600, t("h"))}`;
}

export function time(ms) {
  return new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "medium" }).format(new Date(ms));
}

// The time of day of an instant in seconds.
export function clock(s) {
  return new Intl.DateTimeFormat(locale(), { timeStyle: s % 60 ? "medium" : "short" }).format(new Date(s * 1000));
}

// How long ago, by the server's clock.
export function ago(ms) {
  const passed = serverNow() - ms;
  return passed >= 0 ? t("{time} ago", { time: duration(Math.max(passed, 1)) }) : t("in {time}", { time: duration(-passed) });
}
