package onnxferry;

import ai.onnxruntime.OrtException;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;

/** What an artifact is for, by the kind of its contract: image to class, prompt to text, noise to image, image to its reconstruction. */
public final class Tasks {
  private static final int READ = 4096; // bytes of a prompt in one run
  private static final int FIRST_WRITE = 8; // bytes written by the first run, so that something shows soon
  private static final int WRITE = 24; // by each run after it

  private Tasks() {}

  /** A class and its probability. */
  public record Label(String name, double probability) {}

  /** The likeliest class first. known: false where the model was trained to say that an image is of none of its classes, and says so. */
  public record Classes(List<Label> labels, boolean known) {}

  /** score: how far the reconstruction is from the image; unusual: whether that is more than usual. */
  public record Reconstruction(Image image, double score, boolean unusual) {}

  /** Channels of the images that a model takes: 1 or 3. */
  public static int channels(Artifact artifact) {
    return (int) artifact.option("channels", 3);
  }

  /** The classes of an image. */
  public static Classes classify(Artifact artifact, Image image) throws OrtException {
    Map<String, Array> outputs = artifact.run(Map.of("image", image.array()));
    List<String> names = artifact.labels();
    List<Label> labels = new ArrayList<>();
    for (double probability : output(outputs, "probabilities").numbers()) {
      int i = labels.size();
      labels.add(new Label(i < names.size() ? names.get(i) : String.valueOf(i), probability));
    }
    labels.sort(Comparator.comparingDouble(Label::probability).reversed());
    Array unknown = outputs.get("unknown");
    return new Classes(labels, unknown == null || !(unknown.number(0) > artifact.option("unknown_threshold", 1)));
  }

  /** An image as an autoencoder gives it back. */
  public static Reconstruction reconstruct(Artifact artifact, Image image) throws OrtException {
    Map<String, Array> outputs = artifact.run(Map.of("image", image.array()));
    double score = output(outputs, "anomaly_score").number(0);
    boolean unusual = score > artifact.option("anomaly_threshold", Double.POSITIVE_INFINITY);
    return new Reconstruction(Image.of(output(outputs, "reconstruction"), 0), score, unusual);
  }

  /** `count` images of the classes `labels` (indices, used again from the start), from a seed: the same as onnxferry's `sample` makes. */
  public static List<Image> sample(Artifact artifact, int count, long[] labels, long seed) throws OrtException {
    int length = (int) artifact.option("noise", 0);
    long[] wanted = new long[count];
    for (int i = 0; i < count; i++) {
      wanted[i] = labels[i % labels.length];
    }
    Array noise = Array.of(new Pcg64(seed).normal(count * length), count, length);
    Map<String, Array> outputs = artifact.run(Map.of("noise", noise, "label", Array.of(wanted, count)));
    List<Image> images = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      images.add(Image.of(output(outputs, "image"), i));
    }
    return images;
  }

  /** temperature: 0 always takes the likeliest byte. topK, topP: only the likeliest bytes; 0 for the contract's default. */
  public record Writing(int maxBytes, float temperature, int topK, float topP, long seed) {
    /** 200 bytes at temperature 0.8. */
    public static Writing ofSeed(long seed) {
      return new Writing(200, 0.8f, 0, 0, seed);
    }
  }

  /** The text after a prompt, given to `show` piece by piece, each of whole characters: the same bytes as onnxferry's `generate` writes. */
  public static void write(Artifact artifact, String prompt, Writing options, Consumer<String> show) throws OrtException {
    Pcg64 random = new Pcg64(options.seed());
    Map<String, Array> inputs = new LinkedHashMap<>();
    inputs.put("temperature", Array.of(new float[] {options.temperature()}));
    if (options.topK() > 0) {
      inputs.put("top_k", Array.of(new long[] {Math.min(options.topK(), 256)}));
    }
    if (options.topP() > 0) {
      inputs.put("top_p", Array.of(new float[] {options.topP()}));
    }
    byte[] left = prompt.getBytes(StandardCharsets.UTF_8);
    int start = 0;
    while (left.length - start > READ) {
      step(artifact, inputs, Arrays.copyOfRange(left, start, start + READ), new float[0]);
      start += READ;
    }
    byte[] part = Arrays.copyOfRange(left, start, left.length);
    CharsetDecoder decoder =
        StandardCharsets.UTF_8.newDecoder().onMalformedInput(CodingErrorAction.REPLACE).onUnmappableCharacter(CodingErrorAction.REPLACE);
    ByteBuffer pending = ByteBuffer.allocate(WRITE + 8);
    for (int done = 0; done < options.maxBytes(); ) {
      int count = Math.min(options.maxBytes() - done, done > 0 ? WRITE : FIRST_WRITE);
      pending.put(step(artifact, inputs, part, random.uniform(count))).flip();
      part = new byte[0];
      done += count;
      CharBuffer piece = CharBuffer.allocate(pending.remaining() + 1);
      decoder.decode(pending, piece, done >= options.maxBytes());
      pending.compact(); // the start of a character whose last bytes are still to come
      show.accept(piece.flip().toString());
    }
  }

  private static byte[] step(Artifact artifact, Map<String, Array> inputs, byte[] prompt, float[] uniforms) throws OrtException {
    inputs.put("prompt", Array.of(prompt, 1, prompt.length));
    inputs.put("uniforms", Array.of(uniforms, 1, uniforms.length));
    Map<String, Array> outputs = artifact.run(inputs);
    inputs.put("state", output(outputs, "state_after"));
    return output(outputs, "bytes").bytes();
  }

  private static Array output(Map<String, Array> outputs, String name) {
    Array found = outputs.get(name);
    if (found == null) {
      throw new IllegalArgumentException("the model has no output " + name);
    }
    return found;
  }
}
