// The frame around every page: where one is, how the gateway does, language and light, and
// the key where one is asked for.

import { html, render, useState, useEffect, useLayoutEffect, useRef, useErrorBoundary } from "./vendor/preact.mjs";
import { t, choice, choose, onChoice, apply, LANGUAGES } from "./words.js";
import { look, may, server, signIn, signOut } from "./api.js";
import { live, setPaused, useChanges } from "./live.js";
import { useRoute, link } from "./router.js";
import { Choice } from "./ui.js";
import { Overview } from "./overview.js";
import { Queues } from "./queues.js";
import { Jobs } from "./jobs.js";
import { Job } from "./job.js";
import { Dead } from "./dead.js";
import { Models, Model } from "./models.js";
import { Try } from "./tries.js";
import { Routes } from "./routes.js";
import { Periodic } from "./periodic.js";
import { Workers } from "./workers.js";
import { Webhooks } from "./webhooks.js";
import { Keys } from "./keys.js";
import { Audit } from "./audit.js";

// The part of the address, the title, the page, and the scope that its calls need.
const PAGES = [
  ["", "Overview", Overview, "read"],
  ["queues", "Queues", Queues, "read"],
  ["jobs", "Jobs", ({ names, query }) => (names[0] ? html`<${Job} key=${names[0]} id=${names[0]} />` : html`<${Jobs} query=${query} />`), "read"],
  ["dead", "Dead letters", Dead, "read"],
  ["models", "Models", ({ names }) => (names[0] ? html`<${Model} key=${names[0]} name=${names[0]} />` : html`<${Models} />`), "read"],
  ["try", "Try it", ({ names, query }) => html`<${Try} name=${names[0]} query=${query} />`, "predict"],
  ["routes", "Routes", Routes, "read"],
  ["periodic", "Periodic", Periodic, "admin"],
  ["workers", "Workers", Workers, "read"],
  ["webhooks", "Webhooks", Webhooks, "admin"],
  ["keys", "Keys", Keys, "admin"],
  ["audit", "Audit", Audit, "admin"],
];

function App() {
  const route = useRoute();
  const [, draw] = useState(0);
  useLayoutEffect(() => onChoice(() => draw(count => count + 1)), []);
  useChanges(server, live);
  const [name = "", ...names] = route.names;
  const page = PAGES.find(([path]) => path === name);
  const main = useRef();
  const where = route.names.join("/");
  const first = useRef(true);
  useEffect(() => {
    document.title = `${names[0] ?? t(page?.[1] ?? "nobat")} · nobat`;
    // A new page begins at its heading, for readers too.
    if (!first.current) main.current?.focus();
    first.current = false;
    // Where pages stand in a row that is wider than the window.
    document.querySelector("nav a[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }, [where, choice.language]);
  return html`
    <a class="skip" href="#main" onClick=${event => { event.preventDefault(); main.current.focus(); }}>${t("To the page")}</a>
    <header>
      <a class="brand" href=${link([])}><img src="console/icon.svg" width="28" height="28" alt="" /> nobat</a>
      <p class="unreachable" role="status">${server.reachable ? "" : t("The gateway cannot be reached. Trying again.")}</p>
      <div class="settings">
        <button aria-pressed=${live.paused} onClick=${() => setPaused(!live.paused)}>${live.paused ? t("Go on") : t("Pause updates")}</button>
        <${Choice} label=${t("Language")} value=${choice.language} options=${Object.entries(LANGUAGES)} onChange=${language => choose({ language })} />
        <${Choice} label=${t("Theme")} value=${choice.theme} options=${[["", t("as the system")], ["light", t("light")], ["dark", t("dark")]]} onChange=${theme => choose({ theme })} />
        ${server.keys && server.scope ? html`<span><bdi>${server.name}</bdi> <small>${t(server.scope)}</small></span> <button onClick=${signOut}>${t("Sign out")}</button>` : ""}
      </div>
    </header>
    <nav aria-label=${t("Pages")}><ul>${PAGES.filter(page => server.scope === undefined || may(page[3])).map(([path, title]) => html`<li key=${path}><a href=${link(path ? [path] : [])} aria-current=${path === name ? "page" : null}>${t(title)}</a></li>`)}
      <li><a href="docs/">${t("API")}</a></li></ul></nav>
    <main id="main" ref=${main} tabindex="-1">
      ${server.scope === undefined ? html`<p class="empty" role="status">${t("Loading …")}</p>` : server.scope === null ? html`<${SignIn} />` : page && may(page[3]) ? html`<${Guarded} key=${`${name} ${choice.language}`} page=${page[2]} names=${names} query=${route.query} />` : html`<h1>${page ? t(page[1]) : t("There is no such page")}</h1>${page ? html`<p class="problem">${t("Your key does not go so far: this page needs scope {scope}.", { scope: page[3] })}</p>` : ""}<p><a href=${link([])}>${t("To the overview")}</a></p>`}
    </main>`;
}

// A page that fails says so and leaves the frame standing.
function Guarded({ page: Page, names, query }) {
  const [error, again] = useErrorBoundary(failed => console.error(failed));
  if (error) return html`<h1>${t("This page failed")}</h1><p class="problem"><bdi>${String(error.message ?? error)}</bdi></p><button onClick=${again}>${t("Try again")}</button>`;
  return html`<${Page} names=${names} query=${query} />`;
}

function SignIn() {
  const [key, setKey] = useState("");
  const [refused, setRefused] = useState("");
  const submit = async event => {
    event.preventDefault();
    try {
      await signIn(key);
    } catch (error) {
      setRefused(error.message);
    }
  };
  return html`
    <form class="sign-in" onSubmit=${submit}>
      <h1>${t("Sign in")}</h1>
      <p>${t("This server asks for an API key.")}</p>
      <label>${t("API key")} <input type="password" autocomplete="off" dir="ltr" placeholder="nobat_…" value=${key} onInput=${event => setKey(event.target.value)} /></label>
      <button class="main">${t("Sign in")}</button>
      ${refused ? html`<p class="problem" role="alert"><bdi>${refused}</bdi></p>` : ""}
    </form>`;
}

// Asked until it is known: a gateway that starts later than the page is waited for.
async function begin() {
  try {
    await look();
  } catch {
    setTimeout(begin, 2000);
  }
}

apply();
begin();
render(html`<${App} />`, document.getElementById("app"));
