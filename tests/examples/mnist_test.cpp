// Runs the program examples/mnist on a tiny data set: training, saving, resuming, predicting,
// and every way a user can go wrong.
#include <gmock/gmock.h>
#include <sys/wait.h>

#include "tests/io/files.h"

namespace {
using lazuli::test::Folder;
using lazuli::test::read_file;
using lazuli::test::write_file;
using testing::HasSubstr;
using testing::Not;

constexpr int kSide = 12;

struct Result {
  int code;
  std::string out, err;
};

Result mnist(const Folder& folder, const std::string& arguments) {
  std::string out = folder / "stdout", err = folder / "stderr";
  std::string command = "cd '" + folder.path().string() + "' && '" MNIST_PROGRAM "' " + arguments + " >'" +
                        out + "' 2>'" + err + "' </dev/null";
  int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(out), read_file(err)};
}

std::string idx(const std::vector<uint32_t>& shape, const std::string& data) {
  std::string out = {0, 0, 8, static_cast<char>(shape.size())};
  for (uint32_t extent : shape)
    for (int shift : {24, 16, 8, 0}) out += static_cast<char>(extent >> shift);
  return out + data;
}

// A bright row whose height is the class, on a noisy ground.
std::string image(int label, uint32_t& noise) {
  std::string pixels;
  for (int y = 0; y < kSide; ++y)
    for (int x = 0; x < kSide; ++x) {
      noise = noise * 1664525 + 1013904223;
      pixels += static_cast<char>((noise >> 24) / 4 + (y == label + 1 ? 150 : 0));
    }
  return pixels;
}

void write_split(const std::string& folder, const std::string& prefix, int n) {
  std::string images, labels;
  uint32_t noise = static_cast<uint32_t>(n);
  for (int i = 0; i < n; ++i) {
    images += image(i % 10, noise);
    labels += static_cast<char>(i % 10);
  }
  uint32_t count = static_cast<uint32_t>(n);
  write_file(folder + "/" + prefix + "-images-idx3-ubyte", idx({count, kSide, kSide}, images));
  write_file(folder + "/" + prefix + "-labels-idx1-ubyte", idx({count}, labels));
}

class Mnist : public testing::Test {
 protected:
  Mnist() {
    data_ = folder_ / "data";
    std::filesystem::create_directory(data_);
    write_split(data_, "train", 330);  // not a multiple of the batch size
    write_split(data_, "t10k", 50);
  }
  Result run(const std::string& arguments) { return mnist(folder_, "--data data " + arguments); }
  // Expects one line of error that contains `text`, and no success.
  void expect_error(const std::string& arguments, const std::string& text) {
    Result r = run(arguments);
    EXPECT_NE(r.code, 0) << arguments;
    EXPECT_THAT(r.err, testing::StartsWith("mnist: ")) << arguments;
    EXPECT_THAT(r.err, HasSubstr(text)) << arguments;
    EXPECT_EQ(std::ranges::count(r.err, '\n'), 1) << r.err;
  }
  Folder folder_;
  std::string data_;
};

TEST_F(Mnist, TrainsAndReports) {
  Result r = run("--epochs 3 --batch-size 32 --optimizer adam --lr 0.01");
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("330 training and 50 test images of 12x12; mlp"));
  EXPECT_THAT(r.out, HasSubstr("Epoch: 3"));
  EXPECT_THAT(r.out, HasSubstr("Confusion matrix"));
  EXPECT_THAT(r.out, Not(HasSubstr("\r"))) << "no progress bar in a file";
  EXPECT_THAT(r.out, Not(HasSubstr("\033"))) << "no colours in a file";
}

TEST_F(Mnist, TheCnnLearns) {
  Result r = run("--model cnn --epochs 6 --batch-size 16 --save cnn");
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("Test accuracy: 100.00%"));
  Result again = run("--predict cnn");
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("Test accuracy: 100.00%"));
}

TEST_F(Mnist, ResumingIsTheSameAsNeverStopping) {
  for (std::string model : {"mlp --optimizer adamw", "cnn"}) {
    SCOPED_TRACE(model);
    ASSERT_EQ(run("--batch-size 32 --seed 5 --epochs 4 --save whole --model " + model).code, 0);
    ASSERT_EQ(run("--batch-size 32 --seed 5 --epochs 2 --save half --model " + model).code, 0);
    EXPECT_FALSE(read_file(folder_ / "half.safetensors") == read_file(folder_ / "whole.safetensors"));
    Result r = run("--resume half --epochs 4 --save half");
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_TRUE(read_file(folder_ / "half.safetensors") == read_file(folder_ / "whole.safetensors"));
  }
  Result done = run("--resume whole --epochs 4");
  EXPECT_EQ(done.code, 0);
  EXPECT_THAT(done.out, HasSubstr("Already trained for 4 epochs"));
}

TEST_F(Mnist, ClassifiesImages) {
  ASSERT_EQ(run("--model cnn --epochs 6 --batch-size 16 --save cnn").code, 0);
  uint32_t noise = 1;
  std::string three = image(3, noise), seven = image(7, noise);
  write_file(folder_ / "three.pgm", "P5\n# a comment\n12 12\n255\n" + three);
  std::string text = "P2 12 12 255\n";
  for (char c : seven) text += std::to_string(static_cast<uint8_t>(c)) + "\n";
  write_file(folder_ / "seven.pgm", text);
  write_file(folder_ / "both", idx({2, kSide, kSide}, three + seven));
  Result r = run("--predict cnn three.pgm seven.pgm both");
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("three.pgm: 3 "));
  EXPECT_THAT(r.out, HasSubstr("seven.pgm: 7 "));
  EXPECT_THAT(r.out, HasSubstr("both[0]: 3 "));
  EXPECT_THAT(r.out, HasSubstr("both[1]: 7 "));
  EXPECT_THAT(r.out, HasSubstr("▀"));

  write_file(folder_ / "small.pgm", "P5 2 2 255 1234");
  expect_error("--predict cnn small.pgm", "small.pgm: its images are 2x2, the model takes 12x12");
  write_file(folder_ / "cut.pgm", "P5 12 12 255 1234");
  expect_error("--predict cnn cut.pgm", "cut.pgm: cut off");
  expect_error("--predict cnn none.pgm", "none.pgm: cannot open");
  expect_error("--predict cnn cnn.safetensors", "not an IDX file");
}

TEST_F(Mnist, Help) {
  Result r = mnist(folder_, "--help");
  EXPECT_EQ(r.code, 0);
  EXPECT_THAT(r.out, HasSubstr("--batch-size"));
  EXPECT_THAT(r.out, HasSubstr("Examples:"));
}

TEST_F(Mnist, TheGpuLearnsAsWellOrIsOneClearError) {
  ASSERT_EQ(run("--epochs 1 --device cpu").code, 0);
  Result r = run("--model cnn --epochs 6 --batch-size 16 --device gpu");
  if (r.code == 0)
    EXPECT_THAT(r.out, HasSubstr("Test accuracy: 100.00%"));
  else
    expect_error("--device gpu", "the device is not available");
}

TEST_F(Mnist, BadFlags) {
  expect_error("--device tpu", "tpu");
  expect_error("--epochs many", "epochs");
  expect_error("--epochs -1", "epochs");
  expect_error("--lr 0", "lr");
  expect_error("--lr nan", "lr");
  expect_error("--batch-size 0", "batch-size");
  expect_error("--model transformer", "transformer");
  expect_error("--optimizer magic", "magic");
  expect_error("--colour", "--colour");
  expect_error("--predict a --save b", "excludes");
  expect_error("--save no/such/folder/model", "there is no folder no/such/folder");
  std::filesystem::create_directory(folder_ / "d.safetensors");
  expect_error("--save d", "d.safetensors is a folder");
}

TEST_F(Mnist, BadData) {
  auto missing = mnist(folder_, "--data nowhere");
  EXPECT_NE(missing.code, 0);
  EXPECT_THAT(missing.err, HasSubstr("there is no folder nowhere"));
  std::string images = data_ + "/train-images-idx3-ubyte", labels = data_ + "/train-labels-idx1-ubyte";
  std::string good_images = read_file(images), good_labels = read_file(labels);
  write_file(images, good_images.substr(0, 1000));
  expect_error("", "train-images-idx3-ubyte: cut off");
  write_file(images, "not IDX");
  expect_error("", "train-images-idx3-ubyte: not an IDX file");
  write_file(images, good_labels);
  expect_error("", "holds no 8-bit images");
  write_file(images, good_images);
  write_file(labels, idx({2}, "ab"));
  expect_error("", "must hold 330 labels");
  std::filesystem::remove(labels);
  expect_error("", "has no file train-labels-idx1-ubyte");
}

TEST_F(Mnist, BadModelsAreRefusedAndNothingIsOverwritten) {
  ASSERT_EQ(run("--epochs 1 --save good").code, 0);
  std::string good = read_file(folder_ / "good.safetensors");
  expect_error("--resume none --save good", "none.safetensors: cannot open");
  expect_error("--resume good --model cnn --save good", "holds a model of kind mlp, not cnn");
  expect_error("--resume good --optimizer adam --save good", "was trained by sgd, not adam");
  expect_error("--resume good --lr 1e6 --epochs 30 --save bad", "the loss is no longer a number");
  write_file(folder_ / "cut.safetensors", good.substr(0, good.size() - 10));
  expect_error("--resume cut --save good", "cut.safetensors: ");
  write_file(folder_ / "other.safetensors", std::string("\2\0\0\0\0\0\0\0{}", 10));
  expect_error("--resume other --save good", "not a model that this program saved");
  expect_error("--predict other", "not a model that this program saved");
  std::string changed = good;
  changed.replace(changed.find("\"mlp\""), 5, "\"cnn\"");
  write_file(folder_ / "changed.safetensors", changed);
  expect_error("--resume changed --save good", "");
  EXPECT_TRUE(read_file(folder_ / "good.safetensors") == good);
}

}  // namespace
