/** ip(8): what is routed where. */
import { runTool } from "../tool.ts";

export interface Routes {
  /** Destinations of all routes, in CIDR notation or as single addresses; "default" among them. */
  readonly destinations: readonly string[];
  /** Interface of the default route with the lowest metric. */
  readonly uplink: string | undefined;
}

interface Route {
  readonly dst?: string;
  readonly dev?: string;
  readonly metric?: number;
}

/** Routes of the main table, without those over `except` (our own bridge). Throws ToolError. */
export async function readRoutes(except: string): Promise<Routes> {
  const [ipv4, ipv6] = await Promise.all([
    runTool(["ip", "-j", "-4", "route", "show"]),
    runTool(["ip", "-j", "-6", "route", "show"]),
  ]);
  return routesOf([...parse(ipv4), ...parse(ipv6)].filter(({ dev }) => dev !== except));
}

/** Pure part of `readRoutes`. */
export function routesOf(routes: readonly Route[]): Routes {
  const defaults = routes.filter(({ dst, dev }) => dst === "default" && dev !== undefined);
  const best = [...defaults].sort((a, b) => (a.metric ?? 0) - (b.metric ?? 0))[0];
  return { destinations: routes.flatMap(({ dst }) => (dst === undefined ? [] : [dst])), uplink: best?.dev };
}

/** `ip -j` prints nothing at all when there are no routes. */
function parse(json: string): Route[] {
  return json.trim() === "" ? [] : (JSON.parse(json) as Route[]);
}
