"""Named data sets, image folders, text files, downloads, augmentation."""
