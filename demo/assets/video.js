// Saves frames as a video that the browser itself encodes: MP4 where it can, else WebM. Takes as long as the video plays.
const VIDEO = ["video/mp4;codecs=avc1.42E01E", "video/mp4;codecs=vp9", "video/mp4", "video/webm;codecs=vp9", "video/webm"];
function videoType() {
  return typeof MediaRecorder === "undefined" ? "" : VIDEO.find((each) => MediaRecorder.isTypeSupported(each)) ?? "";
}

// `draw(pen, side, index)` paints frame `index` of `count`; each is shown for `milliseconds`.
async function saveVideo(file, count, milliseconds, draw) {
  const type = videoType(), canvas = document.createElement("canvas");
  canvas.width = canvas.height = 448;
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = false;
  draw(pen, canvas.width, 0);
  const recorder = new MediaRecorder(canvas.captureStream(), { mimeType: type, videoBitsPerSecond: 4e6 });
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  const ended = new Promise((done) => { recorder.onstop = done; });
  recorder.start();
  for (let index = 0; index < count; index++) {
    draw(pen, canvas.width, index);
    await new Promise((done) => setTimeout(done, milliseconds));
  }
  recorder.stop();
  await ended;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(parts, { type }));
  link.download = `${file}.${type.startsWith("video/mp4") ? "mp4" : "webm"}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// A button that saves a video; not there where the browser has no encoder.
function videoButton(button, words, save) {
  button.hidden = !videoType();
  if (!button.disabled) button.textContent = words.video;
  button.onclick = async () => {
    button.disabled = true;
    button.textContent = words.recording;
    try { await save(); } finally { button.disabled = false; button.textContent = words.video; }
  };
}
