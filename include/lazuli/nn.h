// Neural networks: modules, layers, gradients. docs/modules.md is the introduction.
#pragma once

#include "lazuli/init.h"
#include "lazuli/losses.h"
#include "lazuli/nn/activations.h"
#include "lazuli/nn/convolution.h"
#include "lazuli/nn/dropout.h"
#include "lazuli/nn/linear.h"
#include "lazuli/nn/module.h"
#include "lazuli/nn/normalization.h"
#include "lazuli/nn/pooling.h"
#include "lazuli/nn/positional.h"
#include "lazuli/nn/quantized.h"
#include "lazuli/nn/recurrent.h"
#include "lazuli/nn/sequential.h"
#include "lazuli/nn/transformer.h"
#include "lazuli/nn/tree.h"
#include "lazuli/nn/value_and_grad.h"
