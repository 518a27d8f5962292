/**
 * The door to the towns' containers. The orchestrator opens a town with its own secrets; every other request
 * goes to its control server as it is, which checks the bearer itself.
 *
 *   PUT /towns/:id      open the town, with the body's variables; idempotent while it runs
 *   *   /towns/:id/...  the control API of an open town, websockets too
 */

import { Container, getContainer } from "@cloudflare/containers";

import { isAtWork } from "./at-work";

/** What every town gets: the variables and secrets of wrangler.jsonc. */
const SHARED = [
  "GASTOWN_API_URL",
  "GASTOWN_ATTACH_TOKEN",
  "GASTOWN_CONTROL_TOKEN",
  "GASTOWN_DRAIN_SECONDS",
  "GASTOWN_READ_TOKEN",
  "GASTOWN_SERVER_RSS_MB",
  "GASTOWN_SPAWN_SLOTS",
  "AGENT_IDLE_TIMEOUT_MS",
  "KILO_API_URL",
  "KILO_CLOUD_URL",
  "REFINERY_IDLE_TIMEOUT_MS",
] as const;

/** What one town gets, with each opening; nothing of it is stored. */
const OWN = [
  "GASTOWN_CONTAINER_TOKEN",
  "GASTOWN_ORGANIZATION_ID",
  "GASTOWN_SESSION_TOKEN",
  "KILOCODE_TOKEN",
] as const;

type Own = Partial<Record<(typeof OWN)[number], string>>;

export type Env = Record<(typeof SHARED)[number], string> & { TOWNS: DurableObjectNamespace<Town> };

export class Town extends Container<Env> {
  override defaultPort = 8080;
  override sleepAfter = "10m";
  override pingEndpoint = "localhost/livez";

  /** Start the container, unless it runs; returns when its control server listens. */
  async open(townId: string, own: Own): Promise<void> {
    const shared = Object.fromEntries(SHARED.map((name) => [name, this.env[name]]));
    const envVars = { ...shared, ...own, GASTOWN_TOWN_ID: townId };
    await this.startAndWaitForPorts({ startOptions: { envVars } });
  }

  /** Forward a request, which counts as activity. A town that sleeps stays asleep: it could not be given its secrets. */
  override async fetch(request: Request): Promise<Response> {
    if (!this.ctx.container?.running) return refuse(503, "The town is not open: PUT /towns/:id opens it");
    return super.fetch(request);
  }

  /** Ten minutes without a request: let the town sleep (a SIGTERM, so it drains), unless an agent is at work. */
  override async onActivityExpired(): Promise<void> {
    if (await isAtWork(() => this.metrics())) this.renewActivityTimeout();
    else await this.stop();
  }

  /** Asked past `fetch`, because it is no activity. */
  private async metrics(): Promise<Response> {
    const port = this.ctx.container?.getTcpPort(this.defaultPort);
    if (port === undefined) throw new Error("the container has no port");
    const headers = { authorization: `Bearer ${this.env.GASTOWN_READ_TOKEN || this.env.GASTOWN_CONTROL_TOKEN}` };
    return port.fetch("http://localhost/metrics", { headers, signal: AbortSignal.timeout(5000) });
  }
}

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    const url = new URL(request.url);
    const [, towns, townId, ...rest] = url.pathname.split("/");
    if (towns !== "towns" || townId === undefined || !/^[\w.:@-]{1,128}$/.test(townId)) return refuse(404, "Not found");
    const town = getContainer(env.TOWNS, townId);
    if (rest.length > 0) {
      url.pathname = `/${rest.join("/")}`;
      return town.fetch(new Request(url, request));
    }
    if (request.method !== "PUT") return refuse(405, "PUT opens a town");
    if (!(await isControl(request, env))) return refuse(401, "A control token is needed");
    const own = ownOf(await request.json().catch(() => undefined));
    if (own === undefined) return refuse(400, `An object with strings for some of ${OWN.join(", ")} is needed`);
    await town.open(townId, own);
    return Response.json({ open: true });
  },
} satisfies ExportedHandler<Env>;

function ownOf(body: unknown): Own | undefined {
  if (typeof body !== "object" || body === null) return undefined;
  const given = OWN.filter((name) => name in body).map((name) => [name, (body as Record<string, unknown>)[name]]);
  return given.every(([, value]) => typeof value === "string") ? (Object.fromEntries(given) as Own) : undefined;
}

/** Whether the request shows the control token; takes as long for a wrong one as for the right one. */
async function isControl(request: Request, env: Env): Promise<boolean> {
  const digest = (text: string) => crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  const shown = request.headers.get("authorization") ?? "";
  const [ours, theirs] = await Promise.all([digest(`Bearer ${env.GASTOWN_CONTROL_TOKEN}`), digest(shown)]);
  return env.GASTOWN_CONTROL_TOKEN !== "" && crypto.subtle.timingSafeEqual(ours, theirs);
}

function refuse(status: number, error: string): Response {
  return Response.json({ error }, { status });
}
