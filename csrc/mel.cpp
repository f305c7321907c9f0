#include "mel.h"
