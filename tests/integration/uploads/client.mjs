// The real tus-js-client sends one file and prints what happened, one JSON object a line.
// node client.mjs MODULE_DIR ENDPOINT ACCOUNT FILE CHUNK_BYTES(0: all in one)
import { createRequire } from "node:module";
import fs from "node:fs";

const [moduleDir, endpoint, account, file, chunk] = process.argv.slice(2);
const tus = createRequire(moduleDir + "/")("tus-js-client");
const say = (event) => process.stdout.write(JSON.stringify(event) + "\n");

const upload = new tus.Upload(fs.createReadStream(file), {
  endpoint,
  chunkSize: Number(chunk) || 64 * 1024 * 1024,
  uploadSize: fs.statSync(file).size,
  headers: { "X-Account": account },
  metadata: { filename: "study.zip", relativePath: "cd/study.bin" },
  retryDelays: Array(60).fill(250),
  onShouldRetry: () => true,
  onProgress: (sent, total) => say({ sent, total }),
  onChunkComplete: (size, accepted) => say({ accepted }),
  onError: (error) => { say({ error: String(error) }); process.exit(1); },
  onSuccess: ({ lastResponse }) => {
    say({ done: lastResponse.getHeader("MyPHR-Item"), duplicate: lastResponse.getHeader("MyPHR-Duplicate"), url: upload.url });
    process.exit(0);
  },
});
upload.start();
