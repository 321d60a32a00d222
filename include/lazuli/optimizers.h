// Everything for training: optimizers, schedules, clipping, checkpoints.
#pragma once

#include "lazuli/optimizers/checkpoint.h"
#include "lazuli/optimizers/optimizer.h"
#include "lazuli/optimizers/rules.h"
#include "lazuli/optimizers/schedule.h"
#include "lazuli/optimizers/training.h"
