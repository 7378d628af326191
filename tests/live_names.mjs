// Prints what each module exports: by import, and as the scripts of a page define it.
import { readFileSync } from "node:fs";
import vm from "node:vm";

const { scripts, version, files } = JSON.parse(readFileSync(0, "utf8"));
const element = () => ({ append() {} });
const page = { console, document: { createElement: element, head: element() } };
page.window = page;
page.document.querySelectorAll = () => [];
vm.createContext(page);
for (const script of scripts) vm.runInContext(script, page);
const { need } = page.pkLive[version];
const told = {};
for (const [name, address] of Object.entries(files)) {
  const imported = Object.keys(await import(address)).sort();
  told[name] = { imported, made: Object.keys(need(name)).sort() };
}
process.stdout.write(JSON.stringify({ told, globals: Object.keys(page).sort() }));
