#include "sched/messages.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace voronoi::sched {
namespace {

WorkerMessage some_worker_message() {
  WorkerMessage message;
  message.kind = WorkerMessage::Kind::done;
  message.status = TaskStatus::failed;
  message.at_fault = true;
  message.error_code = 74;
  message.task = -7;
  message.seconds = 0.125;
  message.waited_seconds = 0.25;
  message.text = std::string("error\0with zero", 15);
  return message;
}

Command some_command() {
  Command command;
  command.task = 1234567890123;
  command.sequence = 42;
  command.members = {0, 3, 1023};
  command.stopped = true;
  command.quarantined = {-1, 5};
  command.error_code = 5;
  command.error = "disk full";
  return command;
}

TEST(Messages, WorkerMessageSurvivesTheTrip) {
  const WorkerMessage sent = some_worker_message();
  const WorkerMessage got = decode_worker_message(encode(sent));
  EXPECT_EQ(got.kind, sent.kind);
  EXPECT_EQ(got.status, sent.status);
  EXPECT_EQ(got.at_fault, sent.at_fault);
  EXPECT_EQ(got.error_code, sent.error_code);
  EXPECT_EQ(got.stop_requested, sent.stop_requested);
  EXPECT_EQ(got.task, sent.task);
  EXPECT_EQ(got.seconds, sent.seconds);
  EXPECT_EQ(got.waited_seconds, sent.waited_seconds);
  EXPECT_EQ(got.text, sent.text);
}

TEST(Messages, CommandSurvivesTheTrip) {
  const Command sent = some_command();
  const Command got = decode_command(encode(sent));
  EXPECT_EQ(got.kind, sent.kind);
  EXPECT_EQ(got.task, sent.task);
  EXPECT_EQ(got.sequence, sent.sequence);
  EXPECT_EQ(got.members, sent.members);
  EXPECT_EQ(got.stopped, sent.stopped);
  EXPECT_EQ(got.quarantined, sent.quarantined);
  EXPECT_EQ(got.error_code, sent.error_code);
  EXPECT_EQ(got.error, sent.error);
}

TEST(Messages, AnyOtherLengthIsRefused) {
  auto worker = encode(some_worker_message());
  for (std::size_t n = 0; n < worker.size(); ++n)
    EXPECT_THROW(decode_worker_message(std::span(worker).first(n)), core::CommError) << n;
  worker.push_back(std::byte{0});
  EXPECT_THROW(decode_worker_message(worker), core::CommError);
  auto command = encode(some_command());
  for (std::size_t n = 0; n < command.size(); ++n)
    EXPECT_THROW(decode_command(std::span(command).first(n)), core::CommError) << n;
  command.push_back(std::byte{0});
  EXPECT_THROW(decode_command(command), core::CommError);
}

TEST(Messages, UnknownKindsAndImpossibleLengthsAreRefused) {
  auto kind = encode(some_worker_message());
  kind[0] = std::byte{9};
  EXPECT_THROW(decode_worker_message(kind), core::CommError);
  auto length = encode(some_command());
  const std::size_t members_length = 1 + 8 + 8;  // behind kind, task and sequence
  for (std::size_t i = 0; i < 8; ++i) length[members_length + i] = std::byte{0xff};
  EXPECT_THROW(decode_command(length), core::CommError);
}

}  // namespace
}  // namespace voronoi::sched
