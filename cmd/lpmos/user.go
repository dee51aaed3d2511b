package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/spf13/cobra"
)

func userCommand(node *nodeFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "user", Short: "See and change who may sign in"}
	cmd.AddCommand(userList(node), userAdd(node), userPasswd(node), userRole(node),
		userVerb(node, "disable", "Let a user in no more; every session ends at once", "disabled", func(cmd *cobra.Command, c *client.Client, name string) error {
			yes := true
			_, err := c.ChangeUser(cmd.Context(), name, api.UserChange{Disabled: &yes})
			return err
		}),
		userVerb(node, "enable", "Let a user in again", "enabled", func(cmd *cobra.Command, c *client.Client, name string) error {
			no := false
			_, err := c.ChangeUser(cmd.Context(), name, api.UserChange{Disabled: &no})
			return err
		}),
		userVerb(node, "remove", "Forget a user, with sessions and API tokens", "removed", func(cmd *cobra.Command, c *client.Client, name string) error {
			return c.DeleteUser(cmd.Context(), name)
		}))
	return cmd
}

const aUser = "a user's name"

func userVerb(node *nodeFlags, verb, short, done string, do func(*cobra.Command, *client.Client, string) error) *cobra.Command {
	return &cobra.Command{Use: verb + " NAME", Short: short, Args: exactly(1, aUser),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if err := do(cmd, c, args[0]); err != nil {
				return err
			}
			return node.done(cmd.OutOrStdout(), done, args[0])
		})}
}

func userList(node *nodeFlags) *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the users", Args: cobra.NoArgs,
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			all, err := c.Users(cmd.Context())
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), all, func(w io.Writer) {
				row(w, "NAME", "ROLE", "STATE", "SESSIONS", "MADE", "CHANGED")
				for _, u := range all {
					state := "enabled"
					if u.Disabled {
						state = "disabled"
					}
					row(w, u.Name, u.Role, state, u.Sessions, when(u.CreatedAt), when(u.ChangedAt))
				}
			})
		})}
}

func userAdd(node *nodeFlags) *cobra.Command {
	var role, file string
	cmd := &cobra.Command{Use: "add NAME", Short: "Make a user", Args: exactly(1, aUser),
		Long: "Makes a user. The password is asked for, or read from a file; it is never an argument, which others\n" +
			"on this host could read. The first user of a cluster has to be an admin.",
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			secret, err := newPassword(cmd, file, "Password of "+args[0])
			if err != nil {
				return err
			}
			u, err := c.CreateUser(cmd.Context(), api.NewUser{Name: args[0], Role: role, Password: secret})
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), u, func(w io.Writer) { fmt.Fprintf(w, "added %s (%s)\n", u.Name, u.Role) })
		})}
	cmd.Flags().StringVar(&role, "role", "operator", "viewer (looks), operator (makes and approves tasks) or admin (everything)")
	cmd.Flags().StringVar(&file, "password-file", "", "read the password from the first line of this `FILE`")
	return cmd
}

func userPasswd(node *nodeFlags) *cobra.Command {
	var file, oldFile string
	cmd := &cobra.Command{Use: "passwd [NAME]", Short: "Change a user's password, or your own", Args: func(_ *cobra.Command, args []string) error {
		if len(args) > 1 {
			return &usageError{errors.New("give one user's name, or none for your own password")}
		}
		return nil
	},
		Long: "Changes a password, which ends every session of the user. Without a name it is your own.",
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if len(args) == 0 {
				old, err := password(cmd, oldFile, "Your password now: ")
				if err != nil {
					return err
				}
				secret, err := newPassword(cmd, file, "Your new password")
				if err != nil {
					return err
				}
				if err := c.ChangePassword(cmd.Context(), api.NewPassword{Old: old, New: secret}); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), "changed; sign in again")
				return nil
			}
			secret, err := newPassword(cmd, file, "New password of "+args[0])
			if err != nil {
				return err
			}
			if _, err := c.ChangeUser(cmd.Context(), args[0], api.UserChange{Password: &secret}); err != nil {
				return err
			}
			return node.done(cmd.OutOrStdout(), "changed", args[0])
		})}
	cmd.Flags().StringVar(&file, "password-file", "", "read the new password from the first line of this `FILE`")
	cmd.Flags().StringVar(&oldFile, "old-password-file", "", "read your password as it is now from the first line of this `FILE`")
	return cmd
}

func userRole(node *nodeFlags) *cobra.Command {
	return &cobra.Command{Use: "role NAME ROLE", Short: "Change what a user may do; every session ends at once", Args: exactly(2, "a user's name and a role: viewer, operator or admin"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			u, err := c.ChangeUser(cmd.Context(), args[0], api.UserChange{Role: &args[1]})
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), u, func(w io.Writer) { fmt.Fprintf(w, "%s is %s\n", u.Name, u.Role) })
		})}
}

func sessionCommand(node *nodeFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "session", Short: "See who is signed in, and end sessions"}
	cmd.AddCommand(
		&cobra.Command{Use: "list", Short: "List the sessions", Args: cobra.NoArgs,
			RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
				all, err := c.Sessions(cmd.Context())
				if err != nil {
					return err
				}
				return node.print(cmd.OutOrStdout(), all, func(w io.Writer) {
					row(w, "ID", "USER", "ROLE", "FROM", "BEGUN", "SEEN", "EXPIRES")
					for _, v := range all {
						row(w, v.ID, v.User, v.Role, v.From, when(v.CreatedAt), when(v.SeenAt), when(v.ExpiresAt))
					}
				})
			})},
		&cobra.Command{Use: "end SESSION", Short: "End a session, on every node at once", Args: exactly(1, "a session's id"),
			RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
				if err := c.EndSession(cmd.Context(), args[0]); err != nil {
					return err
				}
				return node.done(cmd.OutOrStdout(), "ended", args[0])
			})})
	return cmd
}

func tokenCommand(node *nodeFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "See and change which programs may come in"}
	var role string
	var days int
	create := &cobra.Command{Use: "create NAME", Short: "Make an API token; its key is shown this once", Args: exactly(1, "a name for the token"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			t, err := c.CreateAPIToken(cmd.Context(), api.NewAPIToken{Name: args[0], Role: role, Days: days})
			if err != nil {
				return err
			}
			if err := node.print(cmd.OutOrStdout(), t, func(w io.Writer) { fmt.Fprintln(w, t.Key) }); err != nil || node.json {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "this is shown once; it is good until %s. Use it as LPMOS_TOKEN, or in the header Authorization: Bearer KEY\n", when(t.ExpiresAt))
			return nil
		})}
	create.Flags().StringVar(&role, "role", "viewer", "viewer, operator or admin")
	create.Flags().IntVar(&days, "days", 90, "how long it is good")
	cmd.AddCommand(create,
		&cobra.Command{Use: "list", Short: "List the API tokens", Args: cobra.NoArgs,
			RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
				all, err := c.APITokens(cmd.Context())
				if err != nil {
					return err
				}
				return node.print(cmd.OutOrStdout(), all, func(w io.Writer) {
					row(w, "NAME", "ID", "ROLE", "OF", "MADE", "EXPIRES")
					for _, t := range all {
						row(w, t.Name, t.ID, t.Role, t.User, when(t.CreatedAt), when(t.ExpiresAt))
					}
				})
			})},
		&cobra.Command{Use: "revoke TOKEN", Short: "End an API token", Args: exactly(1, "a token's id or name"),
			RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
				if err := c.RevokeAPIToken(cmd.Context(), args[0]); err != nil {
					return err
				}
				return node.done(cmd.OutOrStdout(), "revoked", args[0])
			})})
	return cmd
}
