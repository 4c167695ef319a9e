// Templates: messages with {} for what is filled in, matched in time linear in the text: each piece
// of fixed text is searched once. One regular expression would try every combination of places.

const TYPED = { "#": "([\\d.]+)", "@": "(the (?:picture )?\\w+)" };

export class Template {
  #first;
  #others;
  #start;
  #end;

  /** `kinds` of each {}: "" any text, "#" a number, "@" a thing. */
  constructor(message, kinds) {
    const texts = message.split("{}");
    const blocks = [escaped(texts[0])];
    texts.slice(1).forEach((text, number) => {
      if (kinds[number]) blocks[blocks.length - 1] += TYPED[kinds[number]] + escaped(text);
      else blocks.push(escaped(text));
    });
    blocks[blocks.length - 1] += "$";
    this.#first = new RegExp(blocks[0], "y");
    this.#others = blocks.slice(1).map((block) => new RegExp(block, "g"));
    this.#start = texts[0];
    this.#end = texts.at(-1);
    this.weight = message.replaceAll("{}", "").length;
  }

  /** Return what is filled in, in order; null for another message. */
  match(text) {
    if (!text.startsWith(this.#start) || !text.endsWith(this.#end)) return null;
    let found = find(this.#first, text, 0);
    if (!found) return null;
    const values = found.slice(1);
    for (const block of this.#others) {
      const end = found.index + found[0].length;
      found = find(block, text, end + 1);
      if (!found) return null;
      values.push(text.slice(end, found.index), ...found.slice(1));
    }
    return values;
  }
}

function find(regex, text, from) {
  regex.lastIndex = from;
  return regex.exec(text);
}

function escaped(text) {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}
