// Images and labels: folders of IDX files as MNIST and Fashion-MNIST come, and PGM images.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "lazuli/data.h"
#include "lazuli/ops.h"

namespace mnist {

namespace fs = std::filesystem;
using lazuli::array;

struct Split {
  array images;  // uint8, (n, height, width)
  array labels;  // uint8, (n,)
};

struct DataSet {
  Split train, test;
  std::vector<std::string> classes;
  int64_t height() const { return train.images.shape(1); }
  int64_t width() const { return train.images.shape(2); }
};

// "train-images" is train-images-idx3-ubyte or train-images.idx3-ubyte, .gz or not.
inline std::string find_idx(const fs::path& folder, const std::string& name, int dims) {
  for (const char* dot : {"-", "."})
    for (const char* gz : {"", ".gz"})
      if (fs::path file = folder / fmt::format("{}{}idx{}-ubyte{}", name, dot, dims, gz); fs::exists(file))
        return file.string();
  throw std::runtime_error(fmt::format("{} has no file {}-idx{}-ubyte or {}-idx{}-ubyte.gz", folder.string(),
                                       name, dims, name, dims));
}

inline Split load_split(const fs::path& folder, const std::string& prefix) {
  std::string image_file = find_idx(folder, prefix + "-images", 3);
  std::string label_file = find_idx(folder, prefix + "-labels", 1);
  Split split{lazuli::load_idx(image_file), lazuli::load_idx(label_file)};
  auto& [images, labels] = split;
  if (images.ndim() != 3 || images.dtype() != lazuli::uint8 || images.size() == 0)
    throw std::runtime_error(
        fmt::format("{} holds no 8-bit images: its shape is {}", image_file, to_string(images.shape())));
  if (labels.ndim() != 1 || labels.dtype() != lazuli::uint8 || labels.shape(0) != images.shape(0))
    throw std::runtime_error(fmt::format("{} must hold {} labels, one for each image, but its shape is {}",
                                         label_file, images.shape(0), to_string(labels.shape())));
  return split;
}

inline DataSet load_dataset(const fs::path& folder) {
  if (!fs::is_directory(folder))
    throw std::runtime_error(
        fmt::format("there is no folder {} (Debian's package dataset-fashion-mnist makes "
                    "/usr/share/datasets/fashion-mnist)",
                    folder.string()));
  DataSet data{load_split(folder, "train"), load_split(folder, "t10k"), {}};
  auto highest = [](const Split& split) { return *std::ranges::max_element(split.labels.span<uint8_t>()); };
  for (int axis : {1, 2})
    if (data.train.images.shape(axis) != data.test.images.shape(axis))
      throw std::runtime_error(fmt::format("the training and test images in {} differ in size: {} and {}",
                                           folder.string(), to_string(data.train.images.shape()),
                                           to_string(data.test.images.shape())));
  if (fs::weakly_canonical(folder).filename().string().find("fashion") != std::string::npos)
    data.classes = {"T-shirt", "Trouser", "Pullover", "Dress", "Coat",
                    "Sandal",  "Shirt",   "Sneaker",  "Bag",   "Boot"};
  size_t count = std::max({10, highest(data.train) + 1, highest(data.test) + 1});
  for (size_t i = data.classes.size(); i < count; ++i) data.classes.push_back(std::to_string(i));
  return data;
}

// A grey image in the PGM format, text (P2) or binary (P5), as a (1, height, width) array.
inline array load_pgm(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  auto fail = [&](const std::string& what) -> std::runtime_error {
    return std::runtime_error(file + ": " + what);
  };
  auto number = [&] {
    while (in >> std::ws && in.peek() == '#') in.ignore(1 << 20, '\n');
    int value;
    if (!(in >> value) || value < 0 || value > 65535) throw fail("not a PGM image, or cut off");
    return value;
  };
  std::string magic(2, '\0');
  if (!in.read(magic.data(), 2) || (magic != "P2" && magic != "P5"))
    throw fail("neither an IDX file nor a PGM image");
  int width = number(), height = number(), white = number();
  if (width < 1 || height < 1 || width > 4096 || height > 4096) throw fail("an image of impossible size");
  if (white < 1 || white > 255) throw fail("only PGM images of 8 bits are supported");
  std::vector<uint8_t> pixels(static_cast<size_t>(width) * height);
  if (magic == "P5") {
    in.get();
    in.read(reinterpret_cast<char*>(pixels.data()), static_cast<std::streamsize>(pixels.size()));
    if (!in) throw fail("cut off");
  } else {
    for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(std::min(number(), white));
  }
  for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(std::min<int>(pixel, white) * 255 / white);
  return array(pixels, {1, height, width});
}

// The images of a file: IDX, gzip or not, of one image or many; or PGM.
inline array load_images(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in || fs::is_directory(file)) throw std::runtime_error(file + ": cannot open");
  if (in.peek() == 'P') return load_pgm(file);
  array images = lazuli::load_idx(file);
  if (images.dtype() != lazuli::uint8 || (images.ndim() != 2 && images.ndim() != 3) || images.size() == 0)
    throw std::runtime_error(
        fmt::format("{}: holds no 8-bit images, its shape is {}", file, to_string(images.shape())));
  return images.ndim() == 2 ? expand_dims(images, 0) : images;
}

}  // namespace mnist
