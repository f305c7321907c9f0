#include "check.h"
#include "cuda_graphs.h"

using namespace gge;

namespace {

Device gpu(int32_t major, int32_t minor, int32_t index = 0) {
    Device d;
    d.kind = GGE_DEVICE_CUDA;
    d.name = "cuda:" + std::to_string(index);
    d.capability = {major, minor};
    return d;
}

Device other(gge_device_kind kind) {
    Device d;
    d.kind = kind;
    return d;
}

constexpr std::array<CudaGraphs, 3> wishes = {CudaGraphs::automatic, CudaGraphs::on, CudaGraphs::off};

} // namespace

TEST(hopper_has_no_graphs_unless_the_user_says_so) {
    for (const int32_t minor : {0, 1}) {
        const GraphsChoice choice = choose_cuda_graphs(CudaGraphs::automatic, {gpu(9, minor)}, false);
        CHECK(!choice.on);
        CHECK_EQ(choice.reason, "auto: cuda:0 has compute capability 9." + std::to_string(minor));
    }
    CHECK(choose_cuda_graphs(CudaGraphs::on, {gpu(9, 0)}, false).on);
    CHECK_EQ(choose_cuda_graphs(CudaGraphs::on, {gpu(9, 0)}, false).reason, "asked for");
}

TEST(other_generations_have_graphs_unless_the_user_says_no) {
    for (const auto &[major, minor] : {std::pair{7, 5}, {8, 0}, {8, 9}, {10, 0}, {12, 0}}) {
        const GraphsChoice choice = choose_cuda_graphs(CudaGraphs::automatic, {gpu(major, minor)}, false);
        CHECK(choice.on);
        CHECK(check::contains(choice.reason, "compute capability " + std::to_string(major)));
        CHECK(!choose_cuda_graphs(CudaGraphs::off, {gpu(major, minor)}, false).on);
    }
}

TEST(one_hopper_among_several_devices_decides) {
    const GraphsChoice choice = choose_cuda_graphs(CudaGraphs::automatic, {gpu(8, 9), gpu(9, 0, 1)}, false);
    CHECK(!choice.on);
    CHECK(check::contains(choice.reason, "cuda:1 has compute capability 9.0"));
}

TEST(an_unknown_capability_may_be_hoppers) {
    const GraphsChoice choice = choose_cuda_graphs(CudaGraphs::automatic, {gpu(0, 0)}, false);
    CHECK(!choice.on);
    CHECK(check::contains(choice.reason, "unknown"));
    CHECK(choose_cuda_graphs(CudaGraphs::on, {gpu(0, 0)}, false).on);
}

TEST(the_environment_is_respected_whatever_the_user_says) {
    for (const CudaGraphs wish : wishes) {
        const GraphsChoice choice = choose_cuda_graphs(wish, {gpu(8, 9)}, true);
        CHECK(!choice.on);
        CHECK_EQ(choice.reason, "GGML_CUDA_DISABLE_GRAPHS is set");
    }
}

TEST(without_a_cuda_device_there_are_none) {
    for (const CudaGraphs wish : wishes) {
        for (const gge_device_kind kind : {GGE_DEVICE_CPU, GGE_DEVICE_METAL, GGE_DEVICE_OTHER}) {
            const GraphsChoice choice = choose_cuda_graphs(wish, {other(kind)}, false);
            CHECK(!choice.on);
            CHECK_EQ(choice.reason, "no CUDA device is used");
        }
    }
}
