// Parse an AsyncAPI document with the official parser: node check_asyncapi.mjs asyncapi.json
// Prints errors and warnings; the exit code is 1 if there is one.
import { readFileSync } from "node:fs";
import { DiagnosticSeverity, Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
const found = diagnostics.filter(({ severity }) => severity <= DiagnosticSeverity.Warning);
for (const { code, path, message } of found) console.log(`${path.join(".")}: ${message} (${code})`);
if (document === undefined || found.length > 0) process.exit(1);
console.log(`${document.channels().length} channels, ${document.messages().length} messages`);
