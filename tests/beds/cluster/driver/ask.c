/* Stands in for systemctl, journalctl and nvidia-imex-ctl: hands its call to the process that answers for all of them
 * (programs.py), whose socket is in ROOT/run/nvsim, and ends as that says. So a call costs what a small program costs, as
 * the real ones do. Called as nvidia-imex it only stays: whether and to whom it is connected, programs.py makes up. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static char words[65536];
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char *place = strstr(argv[0], "/usr/bin/");
	size_t used = 0;
	int i, server, fds[2] = {1, 2};
	unsigned char status = 127;
	char control[CMSG_SPACE(sizeof fds)] = {0};
	struct iovec part = {.iov_base = words};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	if (!place)
		return 127;
	if (strcmp(place, "/usr/bin/nvidia-imex") == 0 && argc > 1 && strcmp(argv[1], "--version") != 0) {
		sigset_t ends;
		signal(SIGUSR1, SIG_IGN);
		signal(SIGHUP, SIG_IGN);
		sigemptyset(&ends);
		sigaddset(&ends, SIGTERM);
		sigprocmask(SIG_BLOCK, &ends, NULL);
		return sigwait(&ends, &i);
	}
	snprintf(address.sun_path, sizeof address.sun_path, "%.*s/run/nvsim/programs.sock", (int)(place - argv[0]), argv[0]);
	for (i = 0; i < argc; i++) {
		size_t length = strlen(argv[i]) + 1;
		if (used + length > sizeof words)
			return 127;
		memcpy(words + used, argv[i], length);
		used += length;
	}
	part.iov_len = used;
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof fds);
	memcpy(CMSG_DATA(header), fds, sizeof fds);
	server = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	if (server < 0 || connect(server, (struct sockaddr *)&address, sizeof address) || sendmsg(server, &message, 0) < 0) {
		perror(argv[0]);
		return 127;
	}
	return read(server, &status, 1) == 1 ? status : 127;
}
