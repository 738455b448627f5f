package onnxferry;

import java.awt.color.ColorSpace;
import java.awt.image.BufferedImage;
import java.io.File;
import java.io.IOException;
import java.util.Arrays;
import javax.imageio.ImageIO;

/** An image: rows, columns, channels (1 grey, 3 red, green, blue), a byte each, in C order. */
public record Image(int height, int width, int channels, byte[] data) {

  /**
   * Reads a file of a format of javax.imageio. Transparency is laid over white; channels: 1 for grey (ITU-R BT.601 luma, rounded as Pillow
   * rounds it), 3 for colour.
   */
  public static Image read(File file, int channels) throws IOException {
    if (!file.isFile()) {
      throw new IOException("there is no file " + file);
    }
    BufferedImage image;
    try {
      image = ImageIO.read(file);
    } catch (IOException | RuntimeException error) { // the decoders throw both for a damaged file
      throw new IOException(file + " is damaged: " + error);
    }
    if (image == null) {
      throw new IOException(file + " is not an image that Java reads (PNG, JPEG, GIF, BMP, TIFF)");
    }
    return of(image, channels);
  }

  /** From an image of AWT. */
  public static Image of(BufferedImage image, int channels) {
    if (channels != 1 && channels != 3) {
      throw new IllegalArgumentException("an image has 1 or 3 channels, not " + channels);
    }
    byte[] data = new byte[image.getHeight() * image.getWidth() * channels];
    int at = 0;
    for (int y = 0; y < image.getHeight(); y++) {
      for (int x = 0; x < image.getWidth(); x++) {
        int pixel = pixel(image, x, y);
        int alpha = pixel >>> 24;
        int red = overWhite(pixel >> 16 & 255, alpha);
        int green = overWhite(pixel >> 8 & 255, alpha);
        int blue = overWhite(pixel & 255, alpha);
        if (channels == 1) {
          data[at++] = (byte) (red * 19595 + green * 38470 + blue * 7471 + 0x8000 >> 16);
        } else {
          data[at++] = (byte) red;
          data[at++] = (byte) green;
          data[at++] = (byte) blue;
        }
      }
    }
    return new Image(image.getHeight(), image.getWidth(), channels, data);
  }

  /** Alpha, red, green, blue. getRGB would turn the grey of a file, which it takes for linear light, into other numbers. */
  private static int pixel(BufferedImage image, int x, int y) {
    if (image.getColorModel().getColorSpace().getType() != ColorSpace.TYPE_GRAY) {
      return image.getRGB(x, y);
    }
    int shift = Math.max(0, image.getSampleModel().getSampleSize(0) - 8);
    int grey = image.getRaster().getSample(x, y, 0) >> shift;
    int alpha = image.getRaster().getNumBands() > 1 ? image.getRaster().getSample(x, y, 1) >> shift : 255;
    return alpha << 24 | grey << 16 | grey << 8 | grey;
  }

  private static int overWhite(int value, int alpha) {
    return Math.round((value * alpha + 255 * (255 - alpha)) / 255f);
  }

  /** Image `index` of a batch (n, height, width, channels) of uint8. */
  public static Image of(Array images, int index) {
    long[] shape = images.shape();
    if (!images.dtype().equals("uint8") || shape.length != 4 || index >= shape[0]) {
      throw new IllegalArgumentException("the model's output is not images of uint8");
    }
    int length = (int) (shape[1] * shape[2] * shape[3]);
    byte[] data = Arrays.copyOfRange(images.bytes(), index * length, (index + 1) * length);
    return new Image((int) shape[1], (int) shape[2], (int) shape[3], data);
  }

  /** A batch of this image. */
  public Array array() {
    return Array.of(data, 1, height, width, channels);
  }

  /** Writes a PNG. */
  public void write(File file) throws IOException {
    BufferedImage image = new BufferedImage(width, height, channels == 1 ? BufferedImage.TYPE_BYTE_GRAY : BufferedImage.TYPE_INT_RGB);
    for (int i = 0; i < data.length; i++) {
      int place = i / channels;
      image.getRaster().setSample(place % width, place / width, i % channels, data[i] & 255);
    }
    if (!ImageIO.write(image, "png", file)) {
      throw new IOException(file + " cannot be written");
    }
  }
}
