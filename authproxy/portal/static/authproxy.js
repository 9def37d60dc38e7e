// Comfort only: every page works without this file.
(() => {
  "use strict";
  const all = (selector) => document.querySelectorAll(selector);

  const words = (seconds) => {
    const minutes = Math.floor(seconds / 60);
    const rest = seconds % 60;
    const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
    const parts = minutes ? [count(minutes, "minute")] : [];
    if (rest || !minutes) parts.push(count(rest, "second"));
    return parts.join(" ");
  };

  // The throttle: count down by the clock (a hidden tab runs its timers late), then show the way on.
  for (const box of all("[data-countdown]")) {
    const total = Number(box.dataset.countdown);
    const text = box.querySelector("[data-countdown-text]");
    const bar = box.querySelector("[data-countdown-bar]");
    const link = document.querySelector("[data-countdown-link]");
    const done = document.querySelector("[data-countdown-done]");
    const end = Date.now() + total * 1000;
    link.hidden = true;
    bar.hidden = false;
    const tick = () => {
      const left = Math.max(0, end - Date.now());
      text.textContent = words(Math.ceil(left / 1000));
      bar.value = total - left / 1000;
      if (left > 0) return;
      clearInterval(timer);
      box.hidden = true;
      link.hidden = false;
      done.textContent = "You can try again now.";
    };
    const timer = setInterval(tick, 250);
    tick();
  }

  // One press, one request; a page that comes back from the browser's history is usable again.
  for (const form of all("form[data-once]")) {
    const button = form.querySelector("[type=submit]");
    form.addEventListener("submit", (event) => {
      if (button.getAttribute("aria-disabled")) event.preventDefault();
      button.setAttribute("aria-disabled", "true");
    });
    addEventListener("pageshow", () => button.removeAttribute("aria-disabled"));
  }

  for (const button of all("[data-reveal]")) {
    const field = document.getElementById(button.dataset.reveal);
    button.hidden = false;
    button.addEventListener("click", () => {
      const shown = field.type === "text";
      field.type = shown ? "password" : "text";
      button.setAttribute("aria-pressed", String(!shown));
      button.firstChild.textContent = shown ? "Show" : "Hide";
    });
    field.form.addEventListener("submit", () => { field.type = "password"; });
  }

  for (const button of all("[data-copy]")) {
    if (!navigator.clipboard) continue; // plain http
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.firstChild.textContent = "Copied";
      setTimeout(() => { button.firstChild.textContent = "Copy"; }, 2000);
    });
  }
})();
