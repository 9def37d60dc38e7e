// A certified OpenID provider on a free loopback port, for the whole-path tests.
//
// It knows two clients (one confidential, one public), two people, and nothing of the proxy that is tested.
// Refresh tokens rotate strictly: a token that is used twice takes its whole grant with it.
// Configured by one JSON value in the environment variable PEER; prints {"issuer": ...} when it is ready.

import dns from "node:dns";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { createServer } from "node:http";

import { Provider } from "oidc-provider";

const peer = {
  redirect_uris: [],
  post_logout_redirect_uris: [],
  backchannel_logout_uri: undefined,
  client_secret: "a-secret-between-the-peer-and-authproxy",
  access_token_ttl: 3600,
  id_token_ttl: 3600,
  refresh_token_ttl: 86400,
  ...JSON.parse(process.env.PEER ?? "{}"),
};

const PEOPLE = {
  alice: { name: "Alice Archer", email: "alice@example.test", groups: ["staff", "admins"] },
  bob: { name: "Bob Baker", email: "bob@example.test", groups: ["guests"] },
};

// Names under .test exist on this machine alone; back-channel logout has to find them too.
const lookup = dns.lookup;
dns.lookup = (name, ...rest) => lookup(name.endsWith(".test") ? "127.0.0.1" : name, ...rest);

const log = []; // what happened, oldest first; the tests count token calls in it
const note = (event, details = {}) => log.push({ event, at: Date.now() / 1000, ...details });

function signingKey() {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { ...privateKey.export({ format: "jwk" }), use: "sig", alg: "RS256", kid: randomBytes(4).toString("hex") };
}

function client(clientId, extra) {
  return {
    client_id: clientId,
    grant_types: ["authorization_code", "refresh_token"],
    response_types: ["code"],
    redirect_uris: peer.redirect_uris,
    post_logout_redirect_uris: peer.post_logout_redirect_uris,
    backchannel_logout_uri: peer.backchannel_logout_uri,
    backchannel_logout_session_required: peer.backchannel_logout_uri ? true : undefined,
    ...extra,
  };
}

function account(username) {
  const person = PEOPLE[username];
  return person && {
    accountId: username,
    claims: async () => ({ sub: username, preferred_username: username, email_verified: true, ...person }),
  };
}

// The library refuses to call special addresses, and loopback is one; here nothing else exists.
async function loopbackFetch(url, { dispatcher: _, ...options }) {
  return fetch(url, options);
}

const configuration = {
  clients: [
    client("authproxy", { client_secret: peer.client_secret }),
    client("authproxy-public", { token_endpoint_auth_method: "none" }),
  ],
  jwks: { keys: [signingKey()] },
  cookies: { keys: [randomBytes(32).toString("hex")] },
  claims: {
    openid: ["sub"],
    profile: ["name", "preferred_username"],
    email: ["email", "email_verified"],
    groups: ["groups"],
  },
  scopes: ["openid", "offline_access"],
  conformIdTokenClaims: false, // the ID token carries the claims itself
  pkce: { required: () => true },
  rotateRefreshToken: true,
  issueRefreshToken: async (_ctx, asking) => asking.grantTypeAllowed("refresh_token"),
  expiresWithSession: async () => false,
  ttl: {
    AccessToken: peer.access_token_ttl,
    IdToken: peer.id_token_ttl,
    RefreshToken: peer.refresh_token_ttl,
    AuthorizationCode: 60,
    Grant: peer.refresh_token_ttl,
    Interaction: 600,
    Session: peer.refresh_token_ttl,
  },
  features: {
    devInteractions: { enabled: false },
    revocation: { enabled: true },
    backchannelLogout: { enabled: true },
    rpInitiatedLogout: {
      enabled: true,
      logoutSource: async (ctx, form) => {
        ctx.body = page("Sign out", `${form}<button form="op.logoutForm" name="logout" value="yes">Sign me out</button>`);
      },
      postLogoutSuccessSource: async (ctx) => {
        ctx.body = page("Signed out", "<p>You are signed out of the provider.</p>");
      },
    },
  },
  interactions: { url: async (_ctx, interaction) => `/interaction/${interaction.uid}` },
  findAccount: async (_ctx, username) => account(username),
  renderError: async (ctx, out) => {
    ctx.type = "json";
    ctx.body = out;
  },
  fetch: loopbackFetch,
};

const page = (title, body) => `<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>${title}</title>
<link rel="icon" href="data:,"></head><body><h1>${title}</h1>${body}</body></html>`;

const form = (uid, problem = "") => page("Sign in to the peer", `<p role="alert">${problem}</p>
<form method="post" action="/interaction/${uid}/login">
<label>User name <input name="username" autofocus></label>
<label>Password <input name="password" type="password"></label>
<button type="submit">Sign in</button></form>`);

function send(response, status, type, body) {
  response.writeHead(status, { "content-type": type, "cache-control": "no-store" }).end(body);
}

async function fields(request) {
  let text = "";
  for await (const piece of request) text += piece;
  return Object.fromEntries(new URLSearchParams(text));
}

async function signIn(provider, request, response, uid) {
  const { username, password } = await fields(request);
  if (!PEOPLE[username] || password !== `${username}-password`) {
    return send(response, 401, "text/html; charset=utf-8", form(uid, "Wrong user name or password."));
  }
  return provider.interactionFinished(request, response, { login: { accountId: username } });
}

async function consent(provider, request, response, interaction) {
  const { prompt, params, session, grantId } = interaction;
  const grant = (grantId && (await provider.Grant.find(grantId)))
    ?? new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope((prompt.details.missingOIDCScope ?? []).join(" "));
  grant.addOIDCClaims(prompt.details.missingOIDCClaims ?? []);
  const result = { consent: { grantId: await grant.save() } };
  return provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true });
}

async function interact(provider, request, response) {
  const interaction = await provider.interactionDetails(request, response);
  if (request.method === "POST") return signIn(provider, request, response, interaction.uid);
  if (interaction.prompt.name === "consent") return consent(provider, request, response, interaction);
  return send(response, 200, "text/html; charset=utf-8", form(interaction.uid));
}

function watch(provider) {
  provider.use(async (ctx, next) => {
    await next();
    const { route, params, client: asking } = ctx.oidc ?? {};
    if (route !== "token" && route !== "revocation") return;
    note(route, {
      client_id: asking?.clientId,
      grant_type: params?.grant_type,
      status: ctx.status,
      error: ctx.body?.error,
      error_description: ctx.body?.error_description,
    });
  });
  provider.on("end_session.success", () => note("end_session"));
  provider.on("backchannel.success", (_ctx, told, username, sid) => note("backchannel", { client_id: told.clientId, username, sid }));
  provider.on("backchannel.error", (_ctx, error) => note("backchannel_error", { error: String(error), why: String(error.cause ?? "") }));
  provider.on("grant.revoked", (_ctx, grant) => note("grant_revoked", { grant }));
  provider.on("server_error", (_ctx, error) => console.error(error));
}

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, configuration);
  watch(provider);
  const protocol = provider.callback();
  server.on("request", (request, response) => {
    if (request.url === "/control/log") return send(response, 200, "application/json", JSON.stringify(log));
    if (!request.url.startsWith("/interaction/")) return protocol(request, response);
    return interact(provider, request, response).catch((error) => {
      console.error(error);
      send(response, 500, "text/plain", "the peer failed");
    });
  });
  process.stdout.write(`${JSON.stringify({ issuer })}\n`);
});

process.on("SIGTERM", () => process.exit(0));
