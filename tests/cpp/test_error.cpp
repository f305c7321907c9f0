#include "check.h"

using namespace gge;

TEST(guard_reports_our_error_with_its_index) {
    gge_error err;
    CHECK_EQ(guard(&err, [] { throw Error(GGE_E_TOO_LONG, "text 3 is too long", 3); }), GGE_E_TOO_LONG);
    CHECK_EQ(err.status, GGE_E_TOO_LONG);
    CHECK_EQ(err.input_index, 3);
    CHECK_EQ(std::string(err.message), "text 3 is too long");
}

TEST(guard_catches_everything) {
    gge_error err;
    CHECK_EQ(guard(&err, [] { throw std::bad_alloc(); }), GGE_E_MEMORY);
    CHECK_EQ(guard(&err, [] { throw std::runtime_error("what"); }), GGE_E_INTERNAL);
    CHECK_EQ(std::string(err.message), "what");
    CHECK_EQ(guard(&err, [] { throw 42; }), GGE_E_INTERNAL);
    CHECK_EQ(err.input_index, -1);
    CHECK_EQ(guard(nullptr, [] { throw 42; }), GGE_E_INTERNAL);
}

TEST(guard_clears_the_error_on_success) {
    gge_error err;
    guard(&err, [] { throw Error(GGE_E_INVALID, "old", 1); });
    CHECK_EQ(guard(&err, [] {}), GGE_OK);
    CHECK_EQ(err.status, GGE_OK);
    CHECK_EQ(err.message[0], '\0');
}

TEST(long_message_is_cut_between_characters) {
    gge_error err;
    const size_t room = sizeof(err.message) - 1;
    std::string message(room - 1, 'a');
    message += "\xC3\xA9 and more"; // two bytes where one has room
    set_error(&err, GGE_E_INTERNAL, message.c_str());
    CHECK_EQ(std::string(err.message), std::string(room - 1, 'a'));
    set_error(&err, GGE_E_INTERNAL, std::string(room, 'b').c_str());
    CHECK_EQ(std::string(err.message), std::string(room, 'b'));
}

TEST(message_is_one_line) {
    gge_error err;
    set_error(&err, GGE_E_INTERNAL, "a\nb\r\nc");
    CHECK_EQ(std::string(err.message), "a b  c");
}

TEST(every_status_has_a_name) {
    for (gge_status s = GGE_OK; s <= GGE_E_BUSY; ++s) {
        CHECK(std::string(gge::status_name(s)).rfind("GGE_", 0) == 0);
    }
    CHECK_EQ(std::string(gge::status_name(-1)), "unknown");
    CHECK_EQ(std::string(gge::status_name(GGE_E_BUSY + 1)), "unknown");
}
