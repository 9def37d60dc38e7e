(() => {
  "use strict";
  const find = (name) => document.querySelector(`[data-${name}]`);
  const banner = find("banner");

  const say = (text, link) => {
    banner.textContent = text;
    if (link) {
      const anchor = document.createElement("a");
      anchor.href = link;
      anchor.textContent = "Sign in";
      banner.append(" ", anchor);
    }
    banner.hidden = false;
  };

  // The API, and the token's life, which the API tells about.
  const box = find("token");
  const token = box && { issued: Number(box.dataset.issued), expires: Number(box.dataset.expires), skew: 0, renewals: 0 };
  if (token) token.skew = Number(box.dataset.now) - Math.floor(Date.now() / 1000);

  const learn = (data) => {
    if (!token || !data.token || !data.token.expires_at) return;
    if (data.token.issued_at > token.issued) {
      token.renewals += 1;
      const times = find("token-renewals");
      times.textContent = token.renewals === 1 ? "renewed once" : `renewed ${token.renewals} times`;
      times.hidden = false;
    }
    token.issued = data.token.issued_at;
    token.expires = data.token.expires_at;
    token.skew = data.now - Math.floor(Date.now() / 1000);
  };

  const call = async () => {
    const began = performance.now();
    const response = await fetch("/api/time", { headers: { Accept: "application/json" } });
    const data = await response.json().catch(() => ({}));
    if (response.ok) learn(data);
    if (response.status === 401) say("You are signed out.", location.pathname);
    return { status: response.status, data, took: Math.round(performance.now() - began) };
  };

  const button = find("api");
  if (button) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const status = find("api-status");
      try {
        const answer = await call();
        status.textContent = `${answer.status} in ${answer.took} ms`;
        status.className = `status ${answer.status < 400 ? "good" : "bad"}`;
        find("api-answer").textContent = JSON.stringify(answer.data, null, 2);
      } catch {
        status.textContent = "no answer";
        status.className = "status bad";
      }
    });
  }

  if (token) {
    const left = find("token-left");
    const bar = find("token-bar");
    let asking = false;
    const tick = () => {
      const rest = Math.max(0, token.expires - Math.floor(Date.now() / 1000) - token.skew);
      left.textContent = rest;
      bar.max = token.expires - token.issued;
      bar.value = rest;
      if (rest > 20 || rest % 5 || asking || !banner.hidden || document.hidden) return;
      asking = true; // near its end, look whether a newer one came
      call().catch(() => {}).finally(() => { asking = false; });
    };
    setInterval(tick, 1000);
    tick();
  }

  // The live line.
  const line = find("chart-line");
  if (line) {
    const fill = find("chart-fill");
    const state = find("clock-state");
    const points = line.dataset.points.split(" ").map(Number);
    const { width, height } = line.ownerSVGElement.viewBox.baseVal;
    let failures = 0;

    const draw = () => {
      const step = width / (points.length - 1);
      const path = points.map((point, i) => `${(i * step).toFixed(1)},${(height - (point / 3) * height).toFixed(1)}`).join(" ");
      line.setAttribute("points", path);
      fill.setAttribute("points", `0,${height} ${path} ${width},${height}`);
    };

    const tell = (text, name) => {
      state.textContent = text;
      state.className = `live ${name}`;
    };

    const connect = () => {
      tell("connecting", "");
      const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/clock`);
      socket.addEventListener("open", () => tell("live", "on"));
      socket.addEventListener("message", (event) => {
        failures = 0;
        const sample = JSON.parse(event.data);
        points.push(sample.swell);
        points.shift();
        find("clock-level").textContent = sample.swell.toFixed(2);
        find("clock-time").textContent = sample.time;
        draw();
      });
      socket.addEventListener("close", () => {
        failures += 1;
        tell("stopped", "off");
        if (failures > 5) return;
        setTimeout(() => call().then((answer) => { if (answer.status === 200) connect(); }).catch(() => {}), 1000 * failures);
      });
    };
    connect();
    addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); }); // back after a sign-out
  }
})();
