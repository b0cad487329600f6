// Builds dist/, which is committed so that building the server needs no node.
//   node build.mjs          builds
//   node build.mjs --test   runs the unit tests
//   node build.mjs --watch  builds again at each change, with source maps
import { createHash } from "node:crypto";
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";

const top = dirname(fileURLToPath(import.meta.url));
process.chdir(top);

const common = {
  bundle: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  charset: "utf8",
  logLevel: "warning",
};

// player.js is a file of its own: the console fetches it when the first player is opened.
const separatePlayer = {
  name: "separate player",
  setup: (build) =>
    build.onResolve({ filter: /\/player\.js$/ }, () => ({ path: "./player.js", external: true })),
};

const bundles = {
  ...common,
  entryPoints: [
    "src/console.tsx",
    "src/player.ts",
    "src/player-page.ts",
    "src/console.css",
    "src/player.css",
  ],
  plugins: [separatePlayer],
  outdir: "dist",
};

/** Packages whose code is in the bundles. */
const BUNDLED = ["hls.js", "preact", "uplot"];

function licences() {
  const parts = BUNDLED.map((name) => {
    const directory = join("node_modules", name);
    const { version, license } = JSON.parse(readFileSync(join(directory, "package.json"), "utf8"));
    const file = readdirSync(directory).find((entry) => /^licen[cs]e/i.test(entry));
    if (!file) throw new Error(`${name} has no licence file`);
    const text = readFileSync(join(directory, file), "utf8").trimEnd();
    return `${name} ${version} (${license})\n\n${text}\n`;
  });
  return parts.join(`\n${"-".repeat(72)}\n\n`);
}

/** Every file that dist/ follows from, as sha256sum(1) writes it. */
function sources() {
  const inside = readdirSync("src", { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
  const pages = readdirSync(".").filter((entry) => entry.endsWith(".html"));
  return [...inside, ...pages, "build.mjs", "package-lock.json", "package.json"]
    .sort()
    .map((path) => `${createHash("sha256").update(readFileSync(path)).digest("hex")}  ${path}\n`)
    .join("");
}

function pages() {
  for (const page of readdirSync(".").filter((entry) => entry.endsWith(".html"))) {
    writeFileSync(join("dist", page), readFileSync(page));
  }
}

async function build() {
  rmSync("dist", { recursive: true, force: true });
  mkdirSync("dist");
  await esbuild.build({ ...bundles, minify: true });
  pages();
  writeFileSync("dist/LICENSES.txt", licences());
  writeFileSync("dist/SOURCES.sha256", sources());
}

async function test() {
  const outdir = "node_modules/.test";
  rmSync(outdir, { recursive: true, force: true });
  const entryPoints = readdirSync("test").filter((entry) => entry.endsWith(".test.ts"));
  await esbuild.build({
    ...common,
    entryPoints: entryPoints.map((entry) => join("test", entry)),
    platform: "node",
    outdir,
    outExtension: { ".js": ".mjs" },
  });
  const files = readdirSync(outdir).map((entry) => join(outdir, entry));
  process.exitCode = spawnSync(process.execPath, ["--test", ...files], { stdio: "inherit" }).status;
}

switch (process.argv[2]) {
  case undefined:
    await build();
    break;
  case "--test":
    await test();
    break;
  case "--watch": {
    pages();
    const context = await esbuild.context({ ...bundles, sourcemap: "inline" });
    await context.watch();
    break;
  }
  default:
    throw new Error(`what is ${process.argv[2]}?`);
}
