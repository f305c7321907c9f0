#include "check.h"
#include "fake_backend.h"
#include "fake_tower.h"
#include "media.h"

#include <cmath>
#include <numeric>

using namespace gge;

namespace {

struct Fixture {
    fake::Log log;
    fake::TowerLog tower_log;
    std::shared_ptr<const Model> model;

    explicit Fixture(TowerFacts vision = fake::vision_facts()) {
        auto backend = std::make_unique<fake::Model>(log);
        backend->known_towers.push_back(std::make_unique<fake::Tower>(std::move(vision), tower_log));
        backend->known_towers.push_back(std::make_unique<fake::Tower>(fake::audio_facts(), tower_log));
        model = fake::wrap(std::move(backend));
    }
};

struct Frame {
    int32_t width;
    int32_t height;
    std::vector<uint8_t> bytes;

    Frame(int32_t w, int32_t h, uint8_t first = 0)
        : width(w), height(h), bytes(static_cast<size_t>(3) * static_cast<size_t>(w) * static_cast<size_t>(h)) {
        std::iota(bytes.begin(), bytes.end(), first);
    }

    Pixels pixels() const { return {bytes.data(), width, height, int64_t{3} * width}; }
    Pixels of_video() const { return {bytes.data(), 0, 0, int64_t{3} * width}; }
};

std::vector<float> values_of(const Media &media, size_t i_unit) {
    const MediaUnit &unit = media.units().at(i_unit);
    std::vector<float> values(n_tower_values(media.tower(), unit));
    tower_input(media.tower(), unit, values.data());
    return values;
}

} // namespace

TEST(an_image_is_one_unit_of_cells) {
    Fixture f;
    const Frame frame(24, 13);
    const auto media = Media::image(*f.model, frame.pixels(), {});
    CHECK(media->complete());
    CHECK(!media->is_video());
    CHECK_EQ(media->modality(), GGE_MODALITY_VISION);
    CHECK_EQ(media->width(), 24);
    CHECK_EQ(media->height(), 12);
    CHECK_EQ(media->n_frames(), 1);
    CHECK_EQ(media->n_rows(), 18);
    CHECK_EQ(media->units().size(), 1U);
    CHECK_EQ(media->units()[0].rows_wide, 6);
    CHECK_EQ(media->units()[0].rows_high, 3);
    CHECK_EQ(media->units()[0].frames[0].size(), 24U * 12U * 3U);
    CHECK(media->units()[0].frames[1].empty());
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, media->add_frame(frame.pixels())), "no further frames"));
}

TEST(limits_of_the_caller_take_the_others_along) {
    Fixture f;
    const Frame frame(24, 24);
    const auto rows = [&](int64_t min_pixels, int64_t max_pixels) {
        return Media::image(*f.model, frame.pixels(), {min_pixels, max_pixels})->n_rows();
    };
    CHECK_EQ(rows(0, 0), 36);
    CHECK_EQ(rows(0, 32), 1);     // below the tower's least
    CHECK_EQ(rows(3600, 0), 225); // above the tower's most
    CHECK_EQ(rows(1600, 1600), 100);
    CHECK_EQ(rows(0, 1), 1);
    CHECK_EQ(CHECK_THROWS(GGE_E_INVALID, rows(65, 64)), "min_pixels is 65, max_pixels only 64");
}

TEST(bad_pixels_are_named) {
    Fixture f;
    const Frame frame(8, 8);
    const auto image = [&](const uint8_t *data, int32_t width, int32_t height, int64_t row_bytes) {
        return CHECK_THROWS(GGE_E_INVALID, Media::image(*f.model, {data, width, height, row_bytes}, {}));
    };
    const uint8_t *data = frame.bytes.data();
    CHECK_EQ(image(nullptr, 8, 8, 24), "pixels is NULL");
    CHECK_EQ(image(data, 8, 8, 23), "row_bytes is 23, a row of 8 pixels has 24");
    CHECK_EQ(image(data, 8, 8, -24), "row_bytes is -24, a row of 8 pixels has 24");
    CHECK(check::contains(image(data, 8, 8, INT64_MAX), "too much for 8 rows"));
    CHECK_EQ(image(data, 0, 8, 24), "image is 0 x 8 pixels, both sides must be at least 1");
    CHECK(check::contains(image(data, 8, 2000, 24), "8 x 2000 pixels"));
}

TEST(a_video_is_pairs_of_frames) {
    Fixture f;
    const double seconds[] = {0.0, 0.5, 1.0, 1.5, 2.25};
    const auto media = Media::video(*f.model, 5, 8, 8, seconds, {});
    CHECK(media->is_video());
    CHECK_EQ(media->n_frames(), 5);
    CHECK_EQ(media->n_rows(), 12); // known before the frames are
    for (uint8_t i = 0; i < 5; ++i) {
        CHECK(!media->complete());
        media->add_frame(Frame(8, 8, i).of_video());
    }
    CHECK(media->complete());
    const auto &units = media->units();
    CHECK_EQ(units.size(), 3U);
    CHECK_EQ(units[0].seconds, 0.25);
    CHECK_EQ(units[1].seconds, 1.25);
    CHECK_EQ(units[2].seconds, 2.25);
    CHECK_EQ(units[0].frames[0][0], 0);
    CHECK_EQ(units[0].frames[1][0], 1);
    CHECK_EQ(units[1].frames[1][0], 3);
    CHECK_EQ(units[2].frames[0][0], 4);
    CHECK(units[2].frames[1].empty());
    CHECK_EQ(CHECK_THROWS(GGE_E_INVALID, media->add_frame(Frame(8, 8).of_video())),
             "the video has all of its 5 frames");
}

TEST(a_video_without_times_has_24_frames_per_second) {
    Fixture f;
    const auto media = Media::video(*f.model, 4, 8, 8, nullptr, {});
    for (size_t k = 0; k < 2; ++k) {
        CHECK(std::abs(media->units()[k].seconds - (4.0 * static_cast<double>(k) + 1.0) / 48.0) < 1e-12);
    }
}

TEST(a_frame_that_is_refused_can_be_given_again) {
    Fixture f;
    const auto media = Media::video(*f.model, 2, 8, 8, nullptr, {});
    const Frame frame(8, 8);
    media->add_frame(frame.of_video());
    CHECK_THROWS(GGE_E_INVALID, media->add_frame({nullptr, 0, 0, 24}));
    CHECK_THROWS(GGE_E_INVALID, media->add_frame({frame.bytes.data(), 0, 0, 23}));
    CHECK(!media->complete());
    media->add_frame(frame.of_video());
    CHECK(media->complete());
    CHECK(media->units()[0].frames[0] == media->units()[0].frames[1]);
}

TEST(times_of_frames_must_be_numbers_that_do_not_decrease) {
    Fixture f;
    const auto video = [&](double second) {
        const double seconds[] = {0.0, 1.0, second};
        return Media::video(*f.model, 3, 8, 8, seconds, {});
    };
    CHECK_EQ(video(1.0)->units().back().seconds, 1.0);
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, video(2e9)), "allowed are 0 to 1e9"));
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, video(0.5)), "seconds[2] is 0.5"));
    CHECK_THROWS(GGE_E_INVALID, video(std::nan("")));
    CHECK_THROWS(GGE_E_INVALID, video(HUGE_VAL));
    const double negative = -1.0;
    CHECK_THROWS(GGE_E_INVALID, Media::video(*f.model, 1, 8, 8, &negative, {}));
}

TEST(limits_of_a_video_hold_for_its_volume) {
    Fixture f;
    const auto n_rows = [&](int32_t n_frames, const MediaOptions &options) {
        return Media::video(*f.model, n_frames, 64, 64, nullptr, options)->n_rows();
    };
    CHECK_EQ(n_rows(2, {}), 64);    // 128 cells in two frames
    CHECK_EQ(n_rows(32, {}), 64);   // 4 cells in each of 32
    CHECK_EQ(n_rows(200, {}), 100); // never less than a cell
    CHECK_EQ(n_rows(2, {0, 512}), 16);
    CHECK_THROWS(GGE_E_INVALID, n_rows(0, {}));
}

TEST(the_tower_of_qwen25_takes_no_video) {
    TowerFacts facts = fake::vision_facts();
    facts.projector = "qwen2.5vl_merger";
    Fixture f(facts);
    const Frame frame(8, 8);
    CHECK_EQ(Media::image(*f.model, frame.pixels(), {})->n_rows(), 4);
    CHECK(check::contains(CHECK_THROWS(GGE_E_UNSUPPORTED, Media::video(*f.model, 2, 8, 8, nullptr, {})), "no video"));
}

TEST(a_sound_is_one_unit_of_frames) {
    Fixture f;
    const std::vector<float> samples(1121, 0.1F);
    const auto media = Media::audio(*f.model, samples.data(), 1121, {});
    CHECK(media->complete());
    CHECK_EQ(media->modality(), GGE_MODALITY_AUDIO);
    CHECK_EQ(media->width(), 0);
    CHECK_EQ(media->n_frames(), 8);
    CHECK_EQ(media->n_rows(), 2);
    const MediaUnit &unit = media->units().at(0);
    CHECK_EQ(unit.mel.size(), 64U);
    CHECK_EQ(n_tower_values(media->tower(), unit), 0U);
    const TowerInput input = tower_input(media->tower(), unit, nullptr);
    CHECK(input.values == unit.mel.data());
    CHECK_EQ(input.n_frames, 8);
    CHECK_EQ(input.n_rows, 2);
    CHECK_EQ(CHECK_THROWS(GGE_E_INVALID, media->add_frame(Frame(8, 8).pixels())), "a sound takes no frames");
}

TEST(sounds_of_eleven_and_thirty_seconds_have_25_rows_a_second) {
    Fixture f;
    const std::vector<float> samples(480000);
    CHECK_EQ(Media::audio(*f.model, samples.data(), 11 * 16000, {})->n_rows(), 275);
    CHECK_EQ(Media::audio(*f.model, samples.data(), 480000, {})->n_rows(), 750);
}

TEST(bad_sounds_are_named) {
    Fixture f;
    const std::vector<float> samples(480);
    CHECK_EQ(Media::audio(*f.model, samples.data(), 480, {})->n_rows(), 1);
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, Media::audio(*f.model, samples.data(), 479, {})), "29 ms"));
    CHECK_EQ(CHECK_THROWS(GGE_E_INVALID, Media::audio(*f.model, nullptr, 480, {})), "samples is NULL");
    CHECK_THROWS(GGE_E_INVALID, Media::audio(*f.model, samples.data(), -1, {}));
}

TEST(models_without_a_tower_say_so) {
    fake::Log log;
    const auto model = fake::wrap(std::make_unique<fake::Model>(log));
    const Frame frame(8, 8);
    const std::vector<float> samples(480);
    CHECK_EQ(CHECK_THROWS(GGE_E_UNSUPPORTED, Media::image(*model, frame.pixels(), {})),
             "the model was loaded without a projector for vision");
    CHECK_THROWS(GGE_E_UNSUPPORTED, Media::video(*model, 2, 8, 8, nullptr, {}));
    CHECK_EQ(CHECK_THROWS(GGE_E_UNSUPPORTED, Media::audio(*model, samples.data(), 480, {})),
             "the model was loaded without a projector for audio");
}

TEST(patches_stand_in_the_order_of_cells) {
    Fixture f;
    const Frame frame(8, 8, 0);
    const auto media = Media::image(*f.model, frame.pixels(), {});
    const std::vector<float> values = values_of(*media, 0);
    CHECK_EQ(values.size(), 16U * 24U);
    const auto value = [&](size_t x, size_t y, size_t channel) {
        const auto byte = static_cast<float>(frame.bytes[3 * (8 * y + x) + channel]);
        return (byte / 255.0F - 0.5F) / 0.5F;
    };
    const auto near = [](float a, float b) { return std::abs(a - b) < 1e-6F; };
    CHECK(near(values[0], value(0, 0, 0)));
    CHECK(near(values[1], value(1, 0, 0)));
    CHECK(near(values[2], value(0, 1, 0)));
    CHECK(near(values[4], value(0, 0, 1)));
    CHECK(near(values[8], value(0, 0, 2)));
    CHECK(near(values[12], value(0, 0, 0))); // the other frame
    CHECK(near(values[24 * 1], value(2, 0, 0)));
    CHECK(near(values[24 * 2], value(0, 2, 0)));
    CHECK(near(values[24 * 4], value(4, 0, 0))); // the next cell
    CHECK(near(values[24 * 8], value(0, 4, 0))); // the next row of cells
    CHECK(near(values.back(), value(7, 7, 2)));
}

TEST(a_tower_takes_what_is_made_for_it) {
    Fixture f;
    const auto media = Media::video(*f.model, 3, 12, 8, nullptr, {});
    for (uint8_t i = 0; i < 3; ++i) {
        media->add_frame(Frame(12, 8, i).of_video());
    }
    const std::vector<float> samples(1600, 0.5F);
    const auto sound = Media::audio(*f.model, samples.data(), 1600, {});
    std::vector<std::vector<float>> values;
    std::vector<TowerInput> inputs;
    for (const MediaUnit &unit : media->units()) {
        values.emplace_back(n_tower_values(media->tower(), unit));
        inputs.push_back(tower_input(media->tower(), unit, values.back().data()));
    }
    const std::atomic<bool> go_on{false};
    const auto vision = tower_for(*f.model, GGE_MODALITY_VISION).open(1, false);
    const float *rows = vision->compute(inputs, go_on);
    CHECK_EQ(rows[1], 6.0F);
    CHECK_EQ(rows[3], 1.0F);
    CHECK(rows[0] != rows[24]); // the second pair is another
    const auto audio = tower_for(*f.model, GGE_MODALITY_AUDIO).open(1, false);
    CHECK_EQ(audio->compute({tower_input(sound->tower(), sound->units()[0], nullptr)}, go_on)[1], 2.0F);
}
