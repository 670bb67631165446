// What Gradio's places for a video and a sound refuse in the browser, and the library reads: it looks at a
// file's content, where they look at the type that the browser has for its name (none for .ts or .amr, a
// video's for a sound in .mkv), and at whether the browser can play it.
const MORE = ".mkv,.ts,.mts,.m2ts,.mpg,.vob,.flv,.ogv,.wmv,.amr,.au,.ac3,.wv,.aiff,.opus";
const placeOf = (node) => node.closest?.("#video, #audio");

document.addEventListener("click", ({ target }) => {
  if (target.type !== "file" || !placeOf(target)) return; // the files that the system's dialog offers
  const kinds = placeOf(target).id === "video" ? "video/*,image/*" : "audio/*,video/*";
  target.accept = `${kinds},${MORE}`;
}, true);

document.addEventListener("change", ({ target }) => {
  if (target.type !== "file" || !placeOf(target)) return;
  const type = `${placeOf(target).id}/x-recording`;
  const files = new DataTransfer();
  for (const file of target.files) files.items.add(new File([file], file.name, { type }));
  target.files = files.files; // before Gradio looks at them
}, true);

document.addEventListener("drop", (event) => {
  const input = placeOf(event.target)?.querySelector("input[type=file]");
  if (!input || !event.dataTransfer?.files.length) return;
  event.preventDefault();
  event.stopPropagation();
  const files = new DataTransfer();
  files.items.add(event.dataTransfer.files[0]);
  input.files = files.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}, true);

// Gradio calls it an error that a video cannot be played; style.css says it in its place.
document.addEventListener("error", (event) => {
  const place = event.target.localName === "video" && event.target.closest("#video");
  if (!place) return;
  event.stopPropagation();
  place.dataset.unplayable = "";
}, true);
document.addEventListener("loadstart", ({ target }) => {
  if (target.localName === "video") delete target.closest("#video")?.dataset.unplayable;
}, true);
