// The page is whole without this. It keeps it fresh, shows values under the pointer, copies,
// and knows a few keys.
(() => {
  "use strict";
  const $ = (s, at = document) => at.querySelector(s);
  const all = (s, at = document) => [...at.querySelectorAll(s)];
  const root = document.documentElement, tip = $("#tip"), said = $("#said");
  root.classList.add("js");

  // Fresh fragments. What a person opened, scrolled or holds stays as it is.
  let events, waiting, gone = 0;
  const held = new Map();
  const patch = (id, html) => {
    const el = document.getElementById(id);
    if (!el || el.innerHTML === html) return;
    const focus = el.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
    const busy = !focus && el.contains(document.activeElement) && document.activeElement !== el ||
      el.contains(getSelection().anchorNode) && !getSelection().isCollapsed || el.matches(":hover") && $("circle.hit:hover, .cursor:not([visibility])", el);
    if (busy) { held.set(id, html); return; }
    held.delete(id);
    const open = new Set(all("details[open]", el).map((d, i) => d.dataset.keep || i));
    const scroll = all(".scroll", el).map((s) => [s.scrollLeft, s.scrollTop]);
    el.innerHTML = html;
    all("details", el).forEach((d) => { if (d.dataset.keep && open.has(d.dataset.keep)) d.open = true; });
    if (focus) all("[data-focus]", el).find((e) => e.dataset.focus === focus)?.focus({ preventScroll: true });
    all(".scroll", el).forEach((s, i) => { if (scroll[i]) [s.scrollLeft, s.scrollTop] = scroll[i]; });
  };
  const release = () => { for (const [id, html] of [...held]) patch(id, html); };
  setInterval(release, 1500);
  const follow = () => {
    clearTimeout(waiting);
    if (events || document.hidden || !document.body.dataset.live) return;
    events = new EventSource("/events?page=" + encodeURIComponent(document.body.dataset.live));
    events.addEventListener("patch", (e) => {
      if (gone) { gone = 0; $("#over")?.remove(); }
      const { id, html } = JSON.parse(e.data);
      if ($("details[open]:not([data-keep])", document.getElementById(id) || document.body) && id === "trace") return;
      patch(id, html);
    });
    events.onerror = () => {
      stop();
      if (++gone === 2) {
        const b = document.createElement("div");
        b.id = "over"; b.className = "banner"; b.setAttribute("role", "status");
        b.innerHTML = "<div><strong>The console has ended.</strong> <span>Start it again with <code>orrery console</code>; what you see is from before.</span></div>";
        $("main").prepend(b);
      }
      waiting = setTimeout(follow, Math.min(1000 * gone, 10000));
    };
  };
  const stop = () => { if (events) events.close(); events = undefined; };
  document.addEventListener("visibilitychange", () => document.hidden ? stop() : follow());
  addEventListener("pagehide", stop);
  addEventListener("pageshow", follow);
  follow();

  // Values under the pointer
  const place = (x, y) => {
    tip.hidden = false;
    const r = tip.getBoundingClientRect();
    let left = x + 16, top = y + 14;
    if (left + r.width > innerWidth - 8) left = Math.max(8, x - r.width - 16);
    if (top + r.height > innerHeight - 8) top = Math.max(8, y - r.height - 14);
    tip.style.transform = `translate(${left}px, ${top}px)`;
  };
  const hide = () => { tip.hidden = true; };
  const digits = (v) => { const a = Math.abs(v); return String(+(a >= 100 || v === 0 ? v.toFixed(0) : a >= 10 ? v.toFixed(1) : a >= .1 ? v.toFixed(2) : v.toPrecision(2))); };
  const scaled = (v, base, names) => { let i = 0; while (Math.abs(v) >= base && i < names.length - 1) { v /= base; i++; } return digits(v) + names[i]; };
  const binary = [" ", " Ki", " Mi", " Gi", " Ti"];
  const format = (v, unit) => ({
    ratio: () => digits(100 * v) + " %", bytes: () => scaled(v, 1024, binary) + "B", "bytes/s": () => scaled(v, 1024, binary) + "B/s",
    seconds: () => { const a = Math.abs(v); return a === 0 ? "0 s" : a < 1e-3 ? digits(v * 1e6) + " µs" : a < 1 ? digits(v * 1e3) + " ms" : a < 120 ? digits(v) + " s" : a < 7200 ? digits(v / 60) + " min" : digits(v / 3600) + " h"; },
    "1/s": () => digits(v) + "/s", cores: () => digits(v) + " cores",
  }[unit] || (() => Math.abs(v) < 10000 ? digits(v) : scaled(v, 1000, ["", " k", " M", " G", " T"])))();
  const points = (d) => {
    const out = new Map();
    for (const m of d.matchAll(/[ML](\d+) (-?\d+)/g)) out.set(+m[1], +m[2]);
    return out;
  };
  let charted;
  const leave = () => { if (charted) { $(".cursor", charted)?.setAttribute("visibility", "hidden"); charted = undefined; hide(); } };
  document.addEventListener("pointermove", (e) => {
    const plot = e.target.closest?.(".plot"), with_ = e.target.closest?.("[data-tip]");
    if (with_) { leave(); tip.textContent = with_.dataset.tip; place(e.clientX, e.clientY); return; }
    if (!plot) { leave(); hide(); return; }
    const chart = plot.closest(".chart"), box = plot.getBoundingClientRect(), n = plot.viewBox.baseVal.width;
    const x = Math.max(0, Math.min(n, Math.round((e.clientX - box.left) / box.width * n)));
    const { t0, dt, lo, hi, unit } = chart.dataset;
    const at = new Date(+t0 + x * dt), rows = [];
    const names = all("li[data-s] span", chart.parentElement).map((s) => s.textContent);
    const stacked = $(".stack", plot);
    let below = new Map();
    for (const line of all(".line", plot)) {
      const own = points(line.getAttribute("d")), y = own.get(x);
      let v = y === undefined ? undefined : +lo + (1 - y / 1000) * (hi - lo);
      if (stacked && v !== undefined) { const under = below.get(x); v -= under === undefined ? 0 : +lo + (1 - under / 1000) * (hi - lo); below = own; }
      if (v !== undefined) rows.push([+line.dataset.s, v]);
    }
    const cursor = $(".cursor", plot);
    cursor.setAttribute("d", `M${x} 0V1000`); cursor.removeAttribute("visibility");
    charted = plot;
    tip.replaceChildren(at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false }));
    const table = tip.appendChild(document.createElement("table"));
    rows.sort((a, b) => b[1] - a[1]).forEach(([s, v]) => {
      const tr = table.insertRow(), name = tr.insertCell(), key = document.createElement("i"), value = tr.insertCell();
      key.className = "key s" + s; name.append(key, names[s] || ""); value.className = "n"; value.textContent = format(v, unit);
    });
    if (!rows.length) table.insertRow().insertCell().textContent = "no value";
    place(e.clientX, e.clientY);
  });
  document.addEventListener("pointerleave", () => { leave(); hide(); });
  addEventListener("scroll", () => { leave(); hide(); }, { passive: true, capture: true });
  document.addEventListener("pointerover", (e) => {
    const li = e.target.closest?.(".legend li[data-s]");
    if (!li) return;
    const plot = $(".plot", li.closest(".legend").parentElement);
    plot?.classList.add("dim");
    all(".line", plot).forEach((l) => l.classList.toggle("on", l.dataset.s === li.dataset.s));
    li.addEventListener("pointerleave", () => plot?.classList.remove("dim"), { once: true });
  });

  // Copying
  document.addEventListener("click", async (e) => {
    const b = e.target.closest?.("[data-copy]");
    if (!b) return;
    try { await navigator.clipboard.writeText(b.dataset.copy); } catch { return; }
    const word = b.firstChild, was = word.data;
    word.data = "copied"; said.textContent = "copied";
    setTimeout(() => { word.data = was; said.textContent = ""; }, 1400);
  });

  // Choices take effect at once.
  all("form[data-auto]").forEach((f) => f.addEventListener("change", () => f.requestSubmit()));

  // Themes: as the system, light, dark
  const themes = ["", "light", "dark"], words = { "": "Auto", light: "Light", dark: "Dark" };
  const themer = $("#theme"), helper = $("#help"), keys = $("#keys");
  const theme = () => root.dataset.theme || "";
  const show = () => { themer.textContent = words[theme()]; themer.setAttribute("aria-label", "Colours: " + words[theme()] + (theme() ? "" : ", as the system has them")); };
  const turn = () => {
    const next = themes[(themes.indexOf(theme()) + 1) % themes.length];
    if (next) root.dataset.theme = next; else delete root.dataset.theme;
    fetch("/theme", { method: "POST", body: new URLSearchParams({ theme: next }) }).catch(() => {});
    show();
  };
  themer.hidden = helper.hidden = false;
  themer.onclick = turn; helper.onclick = () => keys.showModal();
  show();

  // Keys
  let prefix = 0;
  const pages = { o: "/", m: "/map", l: "/logs", t: "/traces", a: "/gitops", v: "/verify" };
  all(".side nav .sub a").forEach((a, i) => { pages[i + 1] = a.getAttribute("href"); });
  addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest?.("input, select, textarea") || keys.open) return;
    if (prefix && Date.now() - prefix < 1200 && pages[e.key]) { location.href = pages[e.key]; return; }
    prefix = e.key === "g" ? Date.now() : 0;
    if (e.key === "/") { e.preventDefault(); const q = $("#q"); q ? (q.focus(), q.select()) : location.href = "/logs"; }
    if (e.key === "?") keys.showModal();
    if (e.key === "d") turn();
  });
})();
