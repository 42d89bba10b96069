/**
 * Labelled data for the text recogniser, made here: words drawn in 18 Roboto faces with varied size, colour, tilt, blur and
 * noise. Everything follows from the seed, so two runs measure the same samples (on one version of the canvas library).
 */
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { createCanvas, GlobalFonts } from '@napi-rs/canvas';
import type { NpyArray } from './npz.ts';

const HEIGHT = 48;
const WIDTH = 320;
/** Longest label in characters: labels are padded to it with −1. */
const LABEL = 24;

const COMMON =
  'about above accept account across action active address advice afraid after again airport always amount animal answer anyone arrive article autumn average bakery balance basket battle beauty because become before begin behind believe benefit better between beyond bicycle blanket bottle branch bread bridge bright brother budget build butter cabinet calm camera cancel candle capital careful castle center century chance change chapter cheese choice church circle citizen clever climate coffee collect comfort common company compare complete concert control corner correct cotton country couple courage cousin create credit culture current curtain custom damage danger daughter decide deliver depend describe desert design detail develop device dinner direct discover distance doctor double dream driver during early earth easily economy effect effort eight either electric element empty energy engine enjoy enough entire equal escape evening event every exact example except exchange excuse exercise expect explain express extra factory family famous farmer fashion father feature feeling festival figure final finger finish flower follow foreign forest forget formal fortune forward freedom fresh friend front future garden general gentle glass global golden government gradual grammar grand grass great green ground growth guide happen harbor health heart heavy height history holiday honest hospital hotel however human hundred hungry husband image imagine impact improve include income industry inform injury inside install instead interest island issue jacket joint journey judge juice justice kettle kitchen knife knowledge ladder language large later laugh leader league learn leather legal lemon length lesson letter level library light limit liquid listen little local lonely lucky machine magazine manage manner market master matter meadow measure medical member memory mention message metal method middle minute mirror mixture model modern moment monitor month moral morning mother motion mountain movement museum music narrow nation natural nearly needle neighbor neither nephew network never north notice number object observe obtain ocean offer office often opinion orange orchard order ordinary other outside oven owner package painting paper parent partner passage pattern peace pencil people pepper perfect perhaps period person picture piece planet plastic player please pocket poetry police policy popular position possible potato pottery power practice prepare present pretty prevent price primary printer private problem process produce program promise protect proud provide public purple purpose quality quarter question quick quiet radio rather reach reader reason receive record reduce refer region regular relate remain remember repair repeat report request rescue respect result return reward rhythm river rocket rough rubber safety salad sample satisfy saturday scale school science season second secret section select sentence separate series serious service settle seven shadow shape share sheep shelter should shoulder silver similar simple single sister slowly smooth social society soldier someone south special speech spider spirit spring square stable station steady steel stomach store storm story straight strange street strong student subject success sudden sugar summer supply support surface surprise survey symbol system table talent target teacher temple tennis theory thirty thought thunder ticket tiger tired title today together tomato tomorrow tongue tooth topic total toward tower trade traffic train travel treasure triangle trouble truck trust twelve twenty twice uncle under understand uniform union unique unit universe until update useful usual valley value vanilla variety vegetable vehicle velvet victory village violin visit voice volume wagon wallet warm water wealth weather wedding weekend weight welcome western wheel whisper whole wide window winter wisdom without woman wonder wooden worker world worth writer yellow yesterday young zebra'.split(
    ' ',
  );

/** mulberry32: a small generator of doubles in [0, 1), good enough to vary pictures with and the same on every machine. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Roboto's 18 faces, from the package; no system font is used. */
function loadFonts(): string[] {
  const root = dirname(createRequire(import.meta.url).resolve('@expo-google-fonts/roboto/package.json'));
  return readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ttf'))
    .sort()
    .map((file, index) => {
      const family = `demo-${index}`;
      if (GlobalFonts.registerFromPath(join(root, file), family) === null) throw new Error(`The font ${file} could not be read.`);
      return family;
    });
}

/** Character → class of the recogniser: line i of its dictionary is class i + 1, class 0 is CTC's blank, the last is the space. */
export function readClasses(dictionary: string): Map<string, number> {
  const characters = readFileSync(dictionary, 'utf8').replaceAll('\r', '').replace(/\n$/, '').split('\n');
  return new Map([...characters, ' '].map((character, index) => [character, index + 1]));
}

/** Distinct texts: words as they stand, capitalised or in capitals, some pairs, and one number in six. */
function texts(count: number, random: () => number): string[] {
  const pick = () => COMMON[Math.floor(random() * COMMON.length)]!;
  const found = new Set<string>();
  while (found.size < count) {
    const kind = random();
    const word = pick();
    if (kind < 0.17) found.add(String(Math.floor(10 ** (2 + random() * 5))));
    else if (kind < 0.3) found.add(word.toUpperCase());
    else if (kind < 0.55) found.add(word[0]!.toUpperCase() + word.slice(1));
    else if (kind < 0.7) found.add(`${word}${pick()}`.slice(0, LABEL));
    else found.add(word);
  }
  return [...found];
}

export interface WordSets {
  calibration: Record<string, NpyArray>;
  evaluation: Record<string, NpyArray>;
  /** Some of the texts drawn, to show. */
  examples: string[];
}

/**
 * Draws `calibration` + `evaluation` samples. Input `x`: float32 [N, 3, 48, 320], BGR, (value/255 − 0.5)/0.5, what lies right of the
 * text 0. `labels`: int64 [N, 24], classes padded with −1. No text is in both sets.
 */
export function drawWords(
  input: string,
  classes: Map<string, number>,
  counts: { calibration: number; evaluation: number },
  seed: number,
): WordSets {
  const random = generator(seed);
  const fonts = loadFonts();
  const total = counts.calibration + counts.evaluation;
  const all = texts(total, random);
  const x = new Float32Array(total * 3 * HEIGHT * WIDTH);
  const labels = new BigInt64Array(total * LABEL).fill(-1n);
  const canvas = createCanvas(WIDTH, HEIGHT);
  const context = canvas.getContext('2d');
  all.forEach((text, sample) => {
    const paper = 130 + random() * 110;
    const ink = 10 + random() * 80;
    const flip = random() < 0.25;
    const tint = () => Math.round((flip ? ink : paper) + (random() - 0.5) * 24);
    const shade = () => Math.round((flip ? paper : ink) + (random() - 0.5) * 40);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.filter = 'none';
    context.fillStyle = `rgb(${tint()}, ${tint()}, ${tint()})`;
    context.fillRect(0, 0, WIDTH, HEIGHT);
    const family = fonts[Math.floor(random() * fonts.length)]!;
    let size = 28 + random() * 12;
    context.font = `${size}px ${family}`;
    const room = WIDTH - 8;
    const measured = context.measureText(text).width;
    if (measured > room) {
      size *= room / measured;
      context.font = `${size}px ${family}`;
    }
    const width = Math.min(WIDTH, Math.ceil(context.measureText(text).width) + 6);
    context.textBaseline = 'middle';
    context.fillStyle = `rgb(${shade()}, ${shade()}, ${shade()})`;
    context.filter = `blur(${(random() * 1.7).toFixed(2)}px)`;
    context.setTransform(1, (random() - 0.5) * 0.05, (random() - 0.5) * 0.25, 1, 3, HEIGHT / 2 + (random() - 0.5) * 5);
    context.fillText(text, 0, 0);
    const noise = random() * 60;
    const pixels = context.getImageData(0, 0, WIDTH, HEIGHT).data;
    const base = sample * 3 * HEIGHT * WIDTH;
    for (let row = 0; row < HEIGHT; row++)
      for (let column = 0; column < width; column++)
        for (let plane = 0; plane < 3; plane++) {
          const value = pixels[(row * WIDTH + column) * 4 + 2 - plane]! + (random() + random() - 1) * noise;
          x[base + (plane * HEIGHT + row) * WIDTH + column] = (Math.min(255, Math.max(0, value)) / 255 - 0.5) / 0.5;
        }
    [...text].forEach((character, position) => {
      const label = classes.get(character);
      if (label === undefined) throw new Error(`The recogniser's dictionary has no ${JSON.stringify(character)}.`);
      labels[sample * LABEL + position] = BigInt(label);
    });
  });
  const part = (from: number, to: number): Record<string, NpyArray> => ({
    [input]: { data: x.subarray(from * 3 * HEIGHT * WIDTH, to * 3 * HEIGHT * WIDTH), shape: [to - from, 3, HEIGHT, WIDTH] },
    labels: { data: labels.subarray(from * LABEL, to * LABEL), shape: [to - from, LABEL] },
  });
  return { calibration: part(0, counts.calibration), evaluation: part(counts.calibration, total), examples: all.slice(0, 6) };
}
