package onnxferry;

import java.io.File;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;

/**
 * {{NAME}}: verifies the model on this machine, then runs it on what the command line names.
 *
 * <pre>mvn -q compile exec:java "-Dexec.args={{ARGUMENT}}"</pre>
 */
public final class Main {
  private static final Path MODEL = Path.of("{{FILE}}");
  private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

  private Main() {}

  public static void main(String[] arguments) {
    System.setProperty("java.awt.headless", "true");
    try (Artifact artifact = new Artifact(MODEL)) {
      verify(artifact);
      answer(artifact, arguments.length > 0 ? arguments[0] : "", arguments.length > 1 ? arguments[1] : "");
    } catch (Exception error) {
      System.err.println("error: " + error.getMessage());
      System.exit(1);
    }
  }

  private static void verify(Artifact artifact) throws Exception {
    List<Artifact.Row> rows = artifact.check();
    List<Artifact.Row> failed = rows.stream().filter(row -> !row.passed()).toList();
    failed.forEach(row -> System.err.println("sample " + row.sample() + ", " + row.output() + ": " + row.problem()));
    if (rows.isEmpty()) {
      throw new IllegalStateException("the model has no golden samples, so it cannot be verified");
    }
    String of = " of " + rows.size() + " outputs";
    if (!failed.isEmpty()) {
      throw new IllegalStateException("the model does not give what it should on this machine: " + failed.size() + of + " failed");
    }
    OUT.println("verified: " + rows.size() + of + " of the golden samples are as expected");
  }

  private static void answer(Artifact artifact, String input, String second) throws Exception {
    switch (artifact.kind()) {
      case "recogniser":
        Tasks.Classes found = Tasks.classify(artifact, image(artifact, input));
        for (Tasks.Label label : found.labels().subList(0, Math.min(3, found.labels().size()))) {
          OUT.println(String.format(Locale.ROOT, "%s  %.1f %%", label.name(), 100 * label.probability()));
        }
        if (!found.known()) {
          OUT.println("probably none of its classes");
        }
        break;
      case "text-generator":
        Tasks.write(artifact, input, Tasks.Writing.ofSeed(whole(second, "a seed")), piece -> {
          OUT.print(piece);
          OUT.flush();
        });
        OUT.println();
        break;
      case "image-generator":
        save(Tasks.sample(artifact, 1, new long[] {label(artifact.labels(), input)}, whole(second, "a seed")).get(0), "sample.png");
        break;
      case "encoder":
        Tasks.Reconstruction made = Tasks.reconstruct(artifact, image(artifact, input));
        OUT.println(String.format(Locale.ROOT, "anomaly score %.5f%s", made.score(), made.unusual() ? ", unusual" : ""));
        save(made.image(), "reconstruction.png");
        break;
      default:
        if (input.isEmpty()) {
          throw new IllegalArgumentException("give a JSON file of the inputs: { name: { dtype, shape, data } }, data a list of numbers");
        }
        if (!Files.isRegularFile(Path.of(input))) {
          throw new IllegalArgumentException("there is no file " + input);
        }
        OUT.println(Array.toJson(artifact.run(Array.fromJson(Json.parse(Files.readString(Path.of(input)))))));
    }
  }

  private static Image image(Artifact artifact, String path) throws Exception {
    if (path.isEmpty()) {
      throw new IllegalArgumentException("give an image file, such as image.png");
    }
    return Image.read(new File(path), Tasks.channels(artifact));
  }

  private static void save(Image image, String name) throws Exception {
    image.write(new File(name));
    OUT.println(name);
  }

  private static long label(List<String> labels, String wanted) {
    if (labels.isEmpty()) {
      return whole(wanted, "a class");
    }
    int found = wanted.isEmpty() ? 0 : labels.indexOf(wanted);
    if (found < 0) {
      throw new IllegalArgumentException("no class " + wanted + "; expected one of " + String.join(", ", labels));
    }
    return found;
  }

  private static long whole(String text, String what) {
    if (!text.matches("\\d{0,18}")) {
      throw new IllegalArgumentException(what + " is a whole number of at most 18 digits, got '" + text + "'");
    }
    return text.isEmpty() ? 0 : Long.parseLong(text);
  }
}
