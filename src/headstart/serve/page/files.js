// Pictures as a browser gives them: dropped, with folders among them, or pasted; and making one smaller.

const MOST = 5000; // files of one drop: more belong into `headstart predict --batch`

const $ = (id) => document.getElementById(id);

/**
 * Take pictures from wherever they come: the two buttons, the clipboard, a drop anywhere on the page.
 *
 * `add` is called with the files, `nothing` with "drop" or "paste" where there were none.
 */
export function listen({ add, nothing }) {
  for (const [button, input] of [["choose", "files"], ["photograph", "camera"]]) {
    $(button).addEventListener("click", () => $(input).click());
    $(input).addEventListener("change", () => {
      add([...$(input).files]);
      $(input).value = ""; // the same file may be chosen again
    });
  }
  addEventListener("paste", (event) => {
    if (event.target.closest?.("dialog")) return;
    const files = pasted(event.clipboardData);
    if (files.length) add(files);
    else nothing("paste");
  });
  let depth = 0; // of the elements that are being dragged over: each says enter and leave
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  const veil = (to) => {
    depth = Math.max(0, to);
    $("veil").hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    veil(depth + 1);
  });
  addEventListener("dragleave", (event) => holdsFiles(event) && veil(depth - 1));
  addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  addEventListener("drop", async (event) => {
    if (!event.dataTransfer) return;
    event.preventDefault(); // never leave the page for a file
    veil(0);
    const files = await dropped(event.dataTransfer);
    if (files.length) add(files);
    else nothing("drop");
  });
}

/** Whether a file may be a picture: a type that is not known is for the server to judge. */
export const mayBePicture = (file) => file.type === "" || file.type.startsWith("image/");

/**
 * The files of a drop, folders opened.
 *
 * Files dropped by themselves all come back; of those in folders, the pictures. Must be called while the event is being handled.
 */
async function dropped(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const loose = items.map((item) => [item.webkitGetAsEntry?.(), item.getAsFile()]);
  const found = [];
  for (const [entry, file] of loose) {
    if (entry?.isDirectory) await open(entry, found);
    else if (file) found.push(file);
  }
  return found.slice(0, MOST);
}

async function open(folder, found) {
  const reader = folder.createReader();
  // A reader gives some hundred entries at a time, and none when it is through.
  for (let some = await listed(reader); some.length && found.length < MOST; some = await listed(reader)) {
    for (const entry of some) {
      if (entry.name.startsWith(".")) continue;
      if (entry.isDirectory) await open(entry, found);
      else {
        const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
        if (file && file.type.startsWith("image/")) found.push(file);
      }
    }
  }
}

const listed = (reader) => new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));

/** The pictures of a paste; the clipboard calls all of them image.png, so they are named by the time. */
function pasted(transfer) {
  const now = new Date().toTimeString().slice(0, 8).replaceAll(":", "");
  return [...(transfer?.files ?? [])].map((file) =>
    file.name === "image.png" ? new File([file], `clipboard-${now}.png`, { type: file.type }) : file,
  );
}

/** A JPEG of the picture with a longer side of at most `side` pixels, and how many times as wide and high the picture is; null where the browser cannot read it. */
export async function smaller(file, side) {
  try {
    const picture = await createImageBitmap(file);
    const scale = Math.min(1, side / Math.max(picture.width, picture.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(picture.width * scale));
    canvas.height = Math.max(1, Math.round(picture.height * scale));
    const brush = canvas.getContext("2d");
    brush.imageSmoothingQuality = "high";
    brush.fillStyle = "#fff"; // a JPEG has no transparency
    brush.fillRect(0, 0, canvas.width, canvas.height);
    brush.drawImage(picture, 0, 0, canvas.width, canvas.height);
    const enlarge = [picture.width / canvas.width, picture.height / canvas.height];
    picture.close();
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    return blob && { blob, enlarge };
  } catch {
    return null;
  }
}

/** Hand a Blob to the person as a file. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
